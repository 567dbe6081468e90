"""Judge the answers of a finished run: put each on a docket as one or more cases, and turn what is said into scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import as_lines, write_text
from qilin_rag.core.judged_answers import JudgedAnswer
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.types import ControlScore, Judgement, MetricSummary, Question, Sample, Score
from qilin_rag.judging.docket import Case, Docket, Hearing, Judge, hear, plan_hearing
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.hooks.calling import call_ended, check_hooks
from qilin_rag.pipeline.run_directory import JUDGEMENTS, RunDirectory
from qilin_rag.pipeline.scoring import add_scores
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.scorers.summary import summarise_metrics

logger = logging.getLogger(__name__)


class Judged(NamedTuple):
    """A judged run: its figures by the judge, and their tokens and cost."""

    directory: RunDirectory
    judge: str
    metrics: dict[str, MetricSummary]
    hearing: Hearing


class JudgedWithControls(NamedTuple):
    """A judged run, and the figures of its controls by name."""

    judged: Judged
    controls: dict[str, dict[str, MetricSummary]]


OWN = ""  # the run's own answers, in place of the name of a control
Answers = list[Sample]


class RunAnswers(NamedTuple):
    """The answers of a run on a docket, and those of controls.

    Attributes:
        samples: The last sample of each question by the name of the control; `OWN` for those of the run.
        lines: All samples of the run ever written.
        keys: The keys of the cases by control and question id.
        chosen: The ids of the questions that the judge's limit and seed choose.
    """

    samples: Mapping[str, Answers]
    lines: Answers
    keys: Mapping[tuple[str, str], list[str]]
    docket: Docket
    chosen: Container[str]

    @property
    def own(self) -> Answers:
        """Return the samples of the run itself."""
        return self.samples[OWN]

    @property
    def controls(self) -> list[str]:
        """Return the names of the controls."""
        return [name for name in self.samples if name != OWN]

    def judged(
        self, sample: Sample, said: Mapping[str, Judgement], control: str = OWN
    ) -> Iterator[tuple[Judgement | None, list[str]]]:
        """Yield the judgement of each case of a sample, and all texts that the judge was shown with it.

        A question that is not chosen has none, also if it was judged before: else figures would be of the questions
        whose cases have not changed since, which are not drawn at random.
        """
        is_chosen = sample.question_id in self.chosen
        for key in self.keys.get((control, sample.question_id), []):
            yield said.get(key) if is_chosen else None, self.docket.cases[key].shown


def _no_controls(questions: Sequence[Question], samples: Answers) -> Mapping[str, Answers]:
    return {}


def read_answers(
    judge: Judge,
    directory: RunDirectory,
    cases_of: Callable[[Question, Sample], Sequence[Case]],
    file_name: str = JUDGEMENTS,
    controls_of: Callable[[Sequence[Question], Answers], Mapping[str, Answers]] = _no_controls,
) -> RunAnswers:
    """Read a run's answers, and make the cases of each; the judge's limit and seed choose the questions to judge.

    Args:
        judge: The judge.
        directory: The run directory.
        cases_of: Returns the cases of an answer.
        file_name: The file that keeps the judgements.
        controls_of: Returns the samples of controls by name, in the order of the questions and samples that it gets.
    """
    finished, lines = directory.read_samples()
    questions = directory.read_questions()
    if missing := sum(question.id not in finished for question in questions):
        raise UsageError(f"{directory.path}: {missing} questions have no sample; finish the run first")
    own = [finished[question.id] for question in questions]
    samples = {OWN: own, **controls_of(questions, own)}
    cases: dict[str, Case] = {}
    keys: dict[tuple[str, str], list[str]] = {}
    for control, of_control in samples.items():
        for question, sample in zip(questions, of_control, strict=True):
            if sample.is_answered:
                of_sample = cases_of(question, sample)
                keys[control, question.id] = [judge.key(case) for case in of_sample]
                cases |= dict(zip(keys[control, question.id], of_sample, strict=True))
    chosen = {question.id for question in select_questions(questions, judge.config.limit, judge.config.seed)}
    wanted = {key for (_, question_id), of_sample in keys.items() if question_id in chosen for key in of_sample}
    return RunAnswers(samples, lines, keys, Docket(judge, cases, wanted, directory, file_name), chosen)


def images_unseen(samples: Answers) -> str:
    """Return the part of a signature that says that the judge did not see images that answers were given with.

    Args:
        samples: The samples of a run; without any image the part is empty.
    """
    return "|images:unseen" if any(sample.images for sample in samples) else ""


def warn_of_images(samples: Answers, metrics: str) -> None:
    """Warn of figures that count what an image says as absent from its note.

    Args:
        samples: The samples of a run.
        metrics: The metrics that compare answers with notes, in words.
    """
    if n_pictured := sum(bool(sample.images) for sample in samples):
        logger.warning(
            "%d of %d questions were asked with images of notes, which the judge does not see; what an image says "
            "counts as absent from its note in %s (a run with image_text in note_fields has it in the text)",
            *(n_pictured, len(samples), metrics),
        )


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
    check_hooks(judge.config.track)
    directory = RunDirectory(path)
    directory.read_complete()
    with directory.locked():
        manifest = directory.read_complete()
        answers = answers_of(directory)
        hearing = hear(answers.docket)
        scores = scores_of(answers, hearing)
        summary = add_scores(directory, answers.own, answers.lines, scores, manifest.seed)
        call_ended(judge.config.track, path)
    metrics = {name: summary.metrics[name] for name in dict.fromkeys(score.metric for score in scores)}
    return Judged(directory, judge.label, metrics, hearing)


def judge_with_controls(
    path: Path,
    judge: Judge,
    answers_of: Callable[[RunDirectory], RunAnswers],
    scores_of: Callable[[str, RunAnswers, Mapping[str, Judgement]], list[Score]],
    lines_of: Callable[[RunAnswers, Mapping[str, Judgement]], Iterable[JudgedAnswer]],
    file_name: str,
) -> JudgedWithControls:
    """Judge the answers of a finished run, and those of its controls; write down how the judge took the run's apart.

    Args:
        path: The run directory, which is locked meanwhile.
        judge: The judge.
        answers_of: Reads the answers of the run and of the controls.
        scores_of: Returns the scores of a control, or of `OWN`; they replace earlier ones by the same metrics.
        lines_of: Returns the answers of the run as the judge took them apart.
        file_name: The file of the run directory that gets these lines.
    """
    controls: dict[str, dict[str, MetricSummary]] = {}

    def own_scores(answers: RunAnswers, hearing: Hearing) -> list[Score]:
        write_text(path / file_name, as_lines(lines_of(answers, hearing.said)))
        by_control = {control: scores_of(control, answers, hearing.said) for control in answers.samples}
        own = by_control.pop(OWN)
        controls.update({control: _summarise(scores, answers.own) for control, scores in by_control.items()})
        of_controls = [
            ControlScore(**score.model_dump(), control=control)
            for control, scores in by_control.items()
            for score in scores
        ]
        RunDirectory(path).write_control_scores(of_controls, {score.metric for score in own})
        return own

    return JudgedWithControls(judge_answers(path, judge, answers_of, own_scores), controls)


def _summarise(scores: Iterable[Score], samples: Answers) -> dict[str, MetricSummary]:
    """Summarise the scores of these samples by metric."""
    by_metric: dict[str, list[Score]] = {}
    for score in scores:
        by_metric.setdefault(score.metric, []).append(score)
    return summarise_metrics(by_metric, query_clusters([sample.query for sample in samples]))


def plan_answers(path: Path, answers_of: Callable[[RunDirectory], RunAnswers]) -> Plan:
    """Plan the calls and the cost of `judge_answers`; write nothing."""
    directory = RunDirectory(path)
    directory.read_complete()
    answers = answers_of(directory)
    left = set(answers.docket.left())
    n_answers = sum(not left.isdisjoint(keys) for keys in answers.keys.values())
    return plan_hearing(answers.docket).model_copy(update={"judged_answers": n_answers})
