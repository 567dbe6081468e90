"""Judge the answers of a finished run: put each on a docket as one or more cases, and turn what is said into scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Judgement, MetricSummary, Question, Sample, Score
from qilin_rag.judging.docket import Case, Docket, Hearing, Judge, hear, plan_hearing
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import JUDGEMENTS, RunDirectory
from qilin_rag.pipeline.scoring import add_scores
from qilin_rag.pipeline.selection import select_questions


class Judged(NamedTuple):
    """A judged run: its figures by the judge, and their tokens and cost."""

    directory: RunDirectory
    judge: str
    metrics: dict[str, MetricSummary]
    hearing: Hearing


class RunAnswers(NamedTuple):
    """A run's samples (the last of each question, and all lines), and the keys of its cases by question id."""

    samples: list[Sample]
    lines: list[Sample]
    keys: dict[str, list[str]]
    docket: Docket

    def judged(self, sample: Sample, said: Mapping[str, Judgement]) -> Iterator[tuple[Judgement | None, list[str]]]:
        """Yield the judgement of each case of a sample, and all texts that the judge was shown with it."""
        for key in self.keys.get(sample.question_id, []):
            yield said.get(key), self.docket.cases[key].shown


def read_answers(
    judge: Judge,
    directory: RunDirectory,
    cases_of: Callable[[Question, Sample], Sequence[Case]],
    file_name: str = JUDGEMENTS,
) -> RunAnswers:
    """Read a run's answers, and make the cases of each; the judge's limit and seed choose the questions to judge."""
    finished, lines = directory.read_samples()
    questions = directory.read_questions()
    if missing := sum(question.id not in finished for question in questions):
        raise UsageError(f"{directory.path}: {missing} questions have no sample; finish the run first")
    samples = [finished[question.id] for question in questions]
    cases: dict[str, Case] = {}
    keys: dict[str, list[str]] = {}
    for question, sample in zip(questions, samples, strict=True):
        if sample.is_answered:
            of_sample = cases_of(question, sample)
            keys[question.id] = [judge.key(case) for case in of_sample]
            cases |= dict(zip(keys[question.id], of_sample, strict=True))
    chosen = select_questions(questions, judge.config.limit, judge.config.seed)
    wanted = {key for question in chosen for key in keys.get(question.id, [])}
    return RunAnswers(samples, lines, keys, Docket(judge, cases, wanted, directory, file_name))


def judge_answers(
    path: Path,
    judge: Judge,
    answers_of: Callable[[RunDirectory], RunAnswers],
    scores_of: Callable[[RunAnswers, Hearing], list[Score]],
) -> Judged:
    """Ask about the answers of a finished run, and add the scores to it.

    Args:
        path: The run directory, which is locked meanwhile.
        judge: The judge.
        answers_of: Reads the answers of the run.
        scores_of: Returns a score of each metric, with its signature, for each question.
    """
    directory = RunDirectory(path)
    directory.read_complete()
    with directory.locked():
        manifest = directory.read_complete()
        answers = answers_of(directory)
        hearing = hear(answers.docket)
        scores = scores_of(answers, hearing)
        summary = add_scores(directory, answers.samples, answers.lines, scores, manifest.seed)
    metrics = {name: summary.metrics[name] for name in dict.fromkeys(score.metric for score in scores)}
    return Judged(directory, judge.label, metrics, hearing)


def plan_answers(path: Path, answers_of: Callable[[RunDirectory], RunAnswers]) -> Plan:
    """Plan the calls and the cost of `judge_answers`; write nothing."""
    directory = RunDirectory(path)
    directory.read_complete()
    return plan_hearing(answers_of(directory).docket)
