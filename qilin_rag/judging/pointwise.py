"""Let an LLM judge a run's answers: correctness, completeness, and faithfulness to the notes, 1 to 5 each.

A judgement is on disk as soon as it is made, under a hash of the judge and of all it was asked: the same command
resumes, and an answer that has changed is judged again. A verdict that can't be read and a call that failed or came
back empty are unscored, never a figure.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from qilin_rag.core.errors import FailedSamplesError, UsageError
from qilin_rag.core.former import former
from qilin_rag.core.hashing import fingerprint, json_hash
from qilin_rag.core.progress import stage
from qilin_rag.core.types import (
    SCALE,
    Cost,
    Exchange,
    Judgement,
    LeftOut,
    MetricSummary,
    Question,
    Sample,
    Score,
    Status,
    Summary,
)
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.verdicts import ASPECTS, read_score, shown_texts
from qilin_rag.pipeline.asking import (
    Asked,
    Reply,
    as_line,
    ask_all,
    complete,
    is_too_many,
    most_frequent_reason,
    opened,
)
from qilin_rag.pipeline.cost import Tally, cost_of, spent_on
from qilin_rag.pipeline.forecast import Call, Plan, found_in_cache, priced, spread
from qilin_rag.pipeline.identity import llm_identity, llm_label
from qilin_rag.pipeline.run_directory import JUDGEMENTS, RunDirectory
from qilin_rag.pipeline.scoring import add_scores, doubts_of
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.pipeline.shared import Shared
from qilin_rag.prompts.judge import JudgePrompt, PointwisePrompt, load_judge_prompt
from qilin_rag.prompts.templates import PromptTooLongError, estimated_tokens

logger = logging.getLogger(__name__)
VERSION = 2  # of how verdicts are read and scored


class Case(NamedTuple):
    """A question with the answers of these runs, and the values that fill the judge's prompt."""

    question: Question
    runs: list[str]
    values: Mapping[str, str | Sequence[str]]


class Judge:
    """A judging LLM with its prompt."""

    def __init__(self, config: JudgeConfig, prompt: JudgePrompt) -> None:
        """Set up the judge; its server is not asked yet."""
        self.config, self.llm = config, config.llm
        self.prompt = prompt
        self.label = llm_label(config)
        self.identity = {**llm_identity(config), "prompt": prompt.sha256}
        self.sha256 = fingerprint(self.identity)
        self.former_sha256 = fingerprint(former(self.identity))

    def key(self, case: Case) -> str:
        """Return the key by which a judgement of this case is found again."""
        return self._key(case, self.sha256)

    def former_key(self, case: Case) -> str:
        """Return the key that versions before 0.2 gave it."""
        return self._key(case, self.former_sha256)

    def _key(self, case: Case, sha256: str) -> str:
        asked = [sha256, self.prompt.render(case.values).messages]
        return json_hash(asked, sort_keys=False, ensure_ascii=False)

    def signature(self, metric: str, said: Mapping[str, Judgement]) -> str:
        """Return the signature of a metric: the judge, the model names that it answered with, and its prompt."""
        models = ",".join(sorted({judgement.model for judgement in said.values() if judgement.model})) or "none"
        made = f"judge:{self.label}|model:{models}|settings:{self.sha256[:8]}|prompt:{self.prompt.sha256[:8]}"
        return f"{metric}|{made}|v{VERSION}"


class Docket(NamedTuple):
    """The cases to judge by key, the keys that are wanted now, and the directory that keeps the judgements."""

    judge: Judge
    cases: Mapping[str, Case]
    wanted: set[str]
    directory: RunDirectory

    def left(self) -> list[str]:
        """Return the wanted keys without a settled judgement."""
        said = _read(self)[0]
        return [key for key in self.cases if key in self.wanted and (key not in said or not said[key].is_settled)]


class Hearing(NamedTuple):
    """The last judgement of each case by key, and the tokens and cost of all judgements."""

    said: dict[str, Judgement]
    counts: dict[Status, int]
    spent: Summary
    cost: Cost

    def check_failures(self, path: Path, fail_on_error: float) -> None:
        """Raise a FailedSamplesError if too many replies failed or are empty."""
        lost = [each for each in self.said.values() if each.is_lost]
        check_judged(len(lost), len(self.said), path, fail_on_error, lost)


class Judged(NamedTuple):
    """A judged run: its figures by the judge, and their tokens and cost."""

    directory: RunDirectory
    judge: str
    metrics: dict[str, MetricSummary]
    hearing: Hearing


def judge_run(path: Path, config: JudgeConfig) -> Judged:
    """Judge the answers of a finished run, one by one, without its data.

    `config.limit` bounds how many answers are judged, counting those that were judged before.
    """
    judge = Judge(config, load_judge_prompt(PointwisePrompt))
    directory = RunDirectory(path)
    directory.read_complete()
    with directory.locked():
        manifest = directory.read_complete()
        answers = _read_answers(judge, directory)
        hearing = hear(answers.docket)
        signatures = {_metric(aspect): _signature(judge, aspect, hearing.said) for aspect in ASPECTS}
        scores = [
            score.model_copy(update={"signature": signatures[score.metric]})
            for sample in answers.samples
            for score in _scores(sample, *answers.judged(sample, hearing.said))
        ]
        summary = add_scores(directory, answers.samples, answers.lines, scores, manifest.seed)
    metrics = {name: summary.metrics[name] for name in map(_metric, ASPECTS)}
    return Judged(directory, judge.label, metrics, hearing)


def plan_judge(path: Path, config: JudgeConfig) -> Plan:
    """Plan the calls and the cost of `judge_run`; write nothing."""
    judge = Judge(config, load_judge_prompt(PointwisePrompt))
    directory = RunDirectory(path)
    directory.read_complete()
    return plan_hearing(_read_answers(judge, directory).docket)


def plan_hearing(docket: Docket) -> Plan:
    """Plan the calls and the cost of `hear`."""
    judge = docket.judge
    prompts, subjects = [], []
    left = docket.left()
    for key in left:
        case = docket.cases[key]
        try:
            prompts.append(judge.prompt.render(case.values, judge.llm.prompt_budget))
        except PromptTooLongError:
            continue
        subjects.append(", ".join([case.question.id, *case.runs]))
    cached, cache_unknown = found_in_cache(judge.config, prompts, Shared())
    calls = [
        Call(question_id=subject, prompt_tokens=estimated_tokens(prompt.messages), messages=prompt.messages)
        for subject, prompt, is_cached in zip(subjects, prompts, cached, strict=True)
        if not is_cached
    ]
    calls.sort(key=lambda call: -call.prompt_tokens)
    return Plan(
        **priced(judge.llm, len(calls), sum(call.prompt_tokens for call in calls)),
        run=str(docket.directory.path),
        questions=len(docket.wanted),
        answered=len(docket.wanted) - len(left),
        cached=sum(cached),
        cache_unknown=cache_unknown,
        too_long=len(left) - len(prompts),
        left_out=LeftOut(),
        examples=spread(calls),
    )


def hear(docket: Docket) -> Hearing:
    """Ask about the wanted cases without a judgement on disk, and read all judgements."""
    if left := docket.left():
        n_wanted = len(docket.wanted)
        if len(left) < n_wanted:
            logger.info("%d of %d judgements are in %s", n_wanted - len(left), n_wanted, docket.directory.path)
        _ask(docket.judge, {key: docket.cases[key] for key in left}, docket.directory)
    said, lines = _read(docket)
    taken = Tally(lines)
    if n_cut := sum(map(taken.is_cut, said.values())):
        logger.warning("%d judgements: by its own count the judge's server read only a part of the prompt", n_cut)
    statuses = Counter(judgement.status for judgement in said.values())
    counts: dict[Status, int] = {status: statuses[status] for status in get_args(Status)}
    spent = spent_on(lines).model_copy(update=doubts_of(said.values()))
    return Hearing(said, counts, spent, cost_of(spent, docket.judge.llm.price))


def check_judged(failed: int, total: int, path: Path, fail_on_error: float, lost: Iterable[Exchange]) -> None:
    """Raise a FailedSamplesError if too many judgements failed or are empty.

    `lost` has these judgements; it is iterated only to raise.
    """
    if is_too_many(failed, total, fail_on_error):
        raise FailedSamplesError(
            f"{failed} of {total} judgements failed or are empty (--fail-on-error {fail_on_error:g}); the same command "
            f"asks those again; the reasons: {path / JUDGEMENTS}{most_frequent_reason(lost)}"
        )


def why_unread(judgement: Judgement | None) -> str | None:
    """Return why a judgement holds no verdict; a truncated reply may lack the end of its last line."""
    if judgement is None:
        return "not judged"
    if judgement.status == "ok" and judgement.is_answered:
        return None
    return f"judge {judgement.status if judgement.is_answered else judgement.why_unanswered}"


def _ask(judge: Judge, cases: Mapping[str, Case], directory: RunDirectory) -> None:
    with opened(judge.config, directory.path / "judge-server.log") as asking:

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


class _Answers(NamedTuple):
    """A run's samples (the last of each question, and all lines), and the keys of its answers by question id."""

    samples: list[Sample]
    lines: list[Sample]
    keys: dict[str, str]
    docket: Docket

    def judged(self, sample: Sample, said: Mapping[str, Judgement]) -> tuple[Judgement | None, list[str]]:
        """Return the judgement of a sample, and all texts that the judge was shown with it."""
        key = self.keys.get(sample.question_id)
        return (None, []) if key is None else (said.get(key), shown_texts(self.docket.cases[key].values.values()))


def _read_answers(judge: Judge, directory: RunDirectory) -> _Answers:
    finished, lines = directory.read_samples()
    questions = directory.read_questions()
    if missing := sum(question.id not in finished for question in questions):
        raise UsageError(f"{directory.path}: {missing} questions have no sample; finish the run first")
    samples = [finished[question.id] for question in questions]
    cases = {
        question.id: _case(directory.path, question, sample)
        for question, sample in zip(questions, samples, strict=True)
        if sample.is_answered
    }
    keys = {question_id: judge.key(case) for question_id, case in cases.items()}
    chosen = select_questions(questions, judge.config.limit, judge.config.seed)
    wanted = {keys[question.id] for question in chosen if question.id in keys}
    docket = Docket(judge, dict(zip(keys.values(), cases.values(), strict=True)), wanted, directory)
    return _Answers(samples, lines, keys, docket)


def _read(docket: Docket) -> tuple[dict[str, Judgement], list[Judgement]]:
    """Read the last judgement of each case, and all of them; without the messages, which are long."""
    lines = [judgement.model_copy(update={"messages": []}) for judgement in docket.directory.read_judgements()]
    if any(judgement.key not in docket.cases for judgement in lines):
        now = {docket.judge.former_key(case): key for key, case in docket.cases.items()}
        lines = [line.model_copy(update={"key": now.get(line.key, line.key)}) for line in lines]
    lines = [judgement for judgement in lines if judgement.key in docket.cases]
    return {judgement.key: judgement for judgement in lines}, lines


def _case(path: Path, question: Question, sample: Sample) -> Case:
    """Return what the judge sees of a sample: with notes, the whole request that holds them."""
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


def _scores(sample: Sample, judgement: Judgement | None, shown: Sequence[str]) -> list[Score]:
    """Return the scores of a sample by its judgement; a score without a verdict says why."""
    scores = []
    for aspect, label in ASPECTS.items():
        value = None
        if not sample.is_answered:
            reason: str | None = sample.why_unanswered
        elif aspect == "faithfulness" and not sample.notes_used:
            is_known = sample.notes_used is not None
            reason = "no notes to be faithful to" if is_known else "not known which notes the prompt held"
        elif not (reason := why_unread(judgement)) and judgement:
            value = read_score(judgement.answer, label, shown)
            reason = "no verdict" if value is None else None
        scores.append(Score(question_id=sample.question_id, metric=_metric(aspect), value=value, reason=reason))
    return scores
