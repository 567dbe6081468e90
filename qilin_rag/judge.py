"""An LLM as judge of a run's answers: correctness, completeness, and faithfulness to the notes, 1 to 5 each.

What the judge said is on disk the moment it is said, under a hash of the judge and of all it was asked: the same
command goes on where it stopped, and an answer that has changed is judged again. A verdict that can't be read, and a
call that failed, are unscored, never a figure.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.answering import Asked, Reply, as_line, ask_all, complete, opened
from qilin_rag.config import RunConfig
from qilin_rag.cost import cost_of
from qilin_rag.errors import FailedSamplesError, UsageError
from qilin_rag.llms import LLM
from qilin_rag.pipeline import is_too_many, select_questions
from qilin_rag.progress import stage
from qilin_rag.prompts import JudgePrompt, PointwisePrompt, load_judge_prompt
from qilin_rag.provenance import fingerprint, llm_identity, llm_label
from qilin_rag.registry import LLMS
from qilin_rag.scoring import add_scores, spent_on
from qilin_rag.store import JUDGEMENTS, RunDirectory
from qilin_rag.types import Cost, Judgement, MetricSummary, Question, Sample, Score, Status, Summary
from qilin_rag.verdicts import ASPECTS, SCALE, read_score

logger = logging.getLogger(__name__)

VERSION = 1  # of how verdicts are read and scored


class Case(NamedTuple):
    """One thing to judge: answers of these runs to a question, and what the prompt is filled with."""

    question: Question
    runs: list[str]
    values: Mapping[str, str | Sequence[str]]


class Judge:
    """An LLM with the prompt it is asked by."""

    def __init__(self, config: RunConfig, prompt: JudgePrompt) -> None:
        """Nobody has asked yet whether its server is there."""
        self.llm = judging_llm(config)
        self.config = config
        self.prompt = prompt
        self.label = llm_label(config, self.llm)
        self.identity = {**llm_identity(config, self.llm), "prompt": prompt.sha256}
        self.sha256 = fingerprint(self.identity)

    def key(self, case: Case) -> str:
        """Under which a judgement of this case is found again."""
        asked = json.dumps([self.sha256, self.prompt.render(case.values).messages], ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()

    def signature(self, metric: str, said: Mapping[str, Judgement]) -> str:
        """Who judged, under which names it answered, and how it was asked."""
        models = ",".join(sorted({judgement.model for judgement in said.values() if judgement.model})) or "none"
        made = f"judge:{self.label}|model:{models}|settings:{self.sha256[:8]}|prompt:{self.prompt.sha256[:8]}"
        return f"{metric}|{made}|v{VERSION}"


class Hearing(NamedTuple):
    """What a judge said: the last word on each case by its key, and what all its words took."""

    said: dict[str, Judgement]
    counts: dict[Status, int]
    spent: Summary
    cost: Cost

    def check_failures(self, path: Path, fail_on_error: float) -> None:
        """FailedSamplesError if more judgements failed than allowed."""
        check_judged(self.counts["failed"], len(self.said), path, fail_on_error)


class Judged(NamedTuple):
    """A run that was judged: its figures by the judge, and what they took."""

    directory: RunDirectory
    judge: str
    metrics: dict[str, MetricSummary]
    hearing: Hearing


def judge_run(path: Path, config: RunConfig) -> Judged:
    """Judge the answers of a finished run, one by one; its data is not needed.

    `config` names the judge. `limit` bounds how many answers are judged; what was judged before counts as well.
    """
    judge = Judge(config, load_judge_prompt(PointwisePrompt))
    directory = RunDirectory(path)
    directory.read_complete()
    with directory.locked():
        manifest = directory.read_complete()
        finished, lines = directory.read_samples()
        questions = directory.read_questions()
        if missing := sum(question.id not in finished for question in questions):
            raise UsageError(f"{path}: {missing} questions have no sample; finish the run first")
        cases = {
            question.id: _case(path, question, finished[question.id])
            for question in questions
            if finished[question.id].is_answered
        }
        keys = {question_id: judge.key(case) for question_id, case in cases.items()}
        wanted = {question.id for question in select_questions(questions, config)}
        hearing = hear(
            judge,
            {keys[question_id]: case for question_id, case in cases.items()},
            {keys[question_id] for question_id in cases if question_id in wanted},
            directory,
        )
        samples = [finished[question.id] for question in questions]
        signatures = {_metric(aspect): _signature(judge, aspect, hearing.said) for aspect in ASPECTS}
        scores = [
            score.model_copy(update={"signature": signatures[score.metric]})
            for sample in samples
            for score in _scores(sample, hearing.said.get(keys.get(sample.question_id, "")))
        ]
        summary = add_scores(directory, samples, lines, scores, manifest.seed)
    metrics = {name: summary.metrics[name] for name in map(_metric, ASPECTS)}
    return Judged(directory, judge.label, metrics, hearing)


def hear(judge: Judge, cases: Mapping[str, Case], wanted: set[str], directory: RunDirectory) -> Hearing:
    """Ask about those of the cases (by key) that are wanted and have no judgement on disk, and read what there is."""
    said = _read(directory, cases)[0]
    left = [key for key in cases if key in wanted and (key not in said or said[key].status == "failed")]
    if left:
        if len(left) < len(wanted):
            logger.info("%d of %d judgements are in %s", len(wanted) - len(left), len(wanted), directory.path)
        _ask(judge, {key: cases[key] for key in left}, directory)
    said, lines = _read(directory, cases)
    if n_cut := sum(judgement.prompt_cut for judgement in said.values()):
        logger.warning("%d judgements: by its own count the judge's server read only a part of the prompt", n_cut)
    statuses = Counter(judgement.status for judgement in said.values())
    counts: dict[Status, int] = {status: statuses[status] for status in ("ok", "failed", "filtered", "truncated")}
    spent = spent_on(lines)
    return Hearing(said, counts, spent, cost_of(spent, judge.llm.price))


def judging_llm(config: RunConfig) -> LLM:
    """The LLM that a judge is; a UsageError where it reads no instructions."""
    llm: LLM = LLMS.create(config.llm.name, config.llm.settings)
    if not llm.takes_tokens:
        raise UsageError(f"llm {config.llm_label} can't judge: it reads no instructions; name another with --llm")
    return llm


def check_judged(failed: int, total: int, path: Path, fail_on_error: float) -> None:
    """FailedSamplesError if more judgements failed than allowed."""
    if is_too_many(failed, total, fail_on_error):
        raise FailedSamplesError(
            f"{failed} of {total} judgements failed (--fail-on-error {fail_on_error:g}); the same command asks "
            f"those again; the reasons: {path / JUDGEMENTS}"
        )


def why_unread(judgement: Judgement | None) -> str | None:
    """Why a judgement holds no verdict at all; a reply that was cut off may lack the end of its last line."""
    if judgement is None:
        return "not judged"
    return None if judgement.status == "ok" else f"judge {judgement.status}"


def _ask(judge: Judge, cases: Mapping[str, Case], directory: RunDirectory) -> None:
    with opened(judge.config, judge.llm, directory.path / "judge-server.log") as asking:

        async def ask(keyed: tuple[str, Case]) -> Asked[Judgement]:
            key, case = keyed
            line: dict[str, Any] = {
                "question_id": case.question.id,
                "query": case.question.query,
                "messages": [],
                "key": key,
                "judge": judge.label,
                "runs": case.runs,
            }

            async def reply() -> Reply:
                prompt = judge.prompt.render(case.values, asking.llm.prompt_budget)
                line["messages"] = prompt.messages
                return await complete(asking, prompt)

            return await as_line(Judgement, line, reply)

        with stage("judging", len(cases)) as advance:
            ask_all(asking, list(cases.items()), ask, directory, advance, JUDGEMENTS)


def _read(directory: RunDirectory, cases: Mapping[str, Case]) -> tuple[dict[str, Judgement], list[Judgement]]:
    """The last judgement of each of these cases, and all there are of them; without the messages, which are long."""
    lines = [
        judgement.model_copy(update={"messages": []})
        for judgement in directory.read_judgements()
        if judgement.key in cases
    ]
    return {judgement.key: judgement for judgement in lines}, lines


def _case(path: Path, question: Question, sample: Sample) -> Case:
    """What the judge sees of a sample: where it was given notes, the whole request, which holds them."""
    request = "\n\n".join(message["content"] for message in sample.messages) if sample.notes_used else ""
    values: dict[str, str | Sequence[str]] = {
        "query": question.query,
        "references": question.references,
        "request": request,
        "answer": sample.answer,
    }
    return Case(question, [path.resolve().name], values)


def _metric(aspect: str) -> str:
    return f"judge_{aspect}"


def _signature(judge: Judge, aspect: str, said: Mapping[str, Judgement]) -> str:
    return judge.signature(f"{_metric(aspect)}|{SCALE[0]}-{SCALE[1]}", said)


def _scores(sample: Sample, judgement: Judgement | None) -> list[Score]:
    """The scores of a sample by what the judge said of it; those without a verdict say why."""
    scores = []
    for aspect, label in ASPECTS.items():
        value = None
        if not sample.is_answered:
            reason: str | None = sample.status
        elif aspect == "faithfulness" and not sample.notes_used:
            reason = "no notes to be faithful to"
        elif not (reason := why_unread(judgement)) and judgement:
            value = read_score(judgement.answer, label)
            reason = "no verdict" if value is None else None
        scores.append(Score(question_id=sample.question_id, metric=_metric(aspect), value=value, reason=reason))
    return scores
