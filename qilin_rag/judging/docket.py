"""Ask an LLM about a docket of cases: nothing twice, each judgement on disk as soon as it is made, priced beforehand.

A judgement is kept under a hash of the judge and of all it was asked: the same command resumes, and a case that has
changed is judged again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, get_args

from qilin_rag.core.errors import FailedSamplesError
from qilin_rag.core.former import former
from qilin_rag.core.hashing import fingerprint, json_hash
from qilin_rag.core.progress import stage
from qilin_rag.core.types import Cost, Exchange, Judgement, LeftOut, Question, RenderedPrompt, Status, Summary
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.verdicts import shown_texts
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
from qilin_rag.pipeline.ceilings import Progress, replies_under_ceiling
from qilin_rag.pipeline.cost import Tally, cost_of, spent_on
from qilin_rag.pipeline.forecast import Call, Plan, found_in_cache, priced, spread
from qilin_rag.pipeline.identity import llm_identity, llm_label
from qilin_rag.pipeline.run_directory import JUDGEMENTS, RunDirectory
from qilin_rag.pipeline.shared import Shared
from qilin_rag.pipeline.totals import doubts_of
from qilin_rag.prompts.judge import JudgePrompt, PromptValues
from qilin_rag.prompts.templates import PromptTooLongError, estimated_tokens

logger = logging.getLogger(__name__)
VERSION = 2  # of how grades and preferences are read and scored


class Case(NamedTuple):
    """A question with the answers of these runs, and the values that fill the prompt; by default the judge's first."""

    question: Question
    runs: list[str]
    values: PromptValues
    prompt: JudgePrompt | None = None

    @property
    def shown(self) -> list[str]:
        """Return all texts under test that the judge is shown."""
        return shown_texts(self.values.values())


class Judge:
    """A judging LLM with its prompts; each judgement depends on the LLM and on one of them."""

    def __init__(self, config: JudgeConfig, *prompts: JudgePrompt) -> None:
        """Set up the judge; its server is not asked yet."""
        self.config, self.llm = config, config.llm
        self.prompts = prompts
        self.label = llm_label(config)
        self._llm = llm_identity(config)
        self.sha256, self.former_sha256 = self._hashes(*prompts)
        self._of_prompt = {prompt.sha256: self._hashes(prompt) for prompt in prompts}

    def render(self, case: Case, budget: int | None = None) -> RenderedPrompt:
        """Fill the prompt of a case.

        Raises:
            PromptTooLongError: The prompt exceeds the budget.
        """
        return self._prompt(case).render(case.values, budget)

    def key(self, case: Case) -> str:
        """Return the key by which a judgement of this case is found again."""
        return self._key(case, self._of_prompt[self._prompt(case).sha256][0])

    def former_key(self, case: Case) -> str:
        """Return the key that versions before 0.2 gave it."""
        return self._key(case, self._of_prompt[self._prompt(case).sha256][1])

    def _prompt(self, case: Case) -> JudgePrompt:
        return case.prompt or self.prompts[0]

    def _hashes(self, *prompts: JudgePrompt) -> tuple[str, str]:
        """Return the hash of the judge with these prompts, and the one that versions before 0.2 gave it."""
        identity = {**self._llm, "prompt": "+".join(prompt.sha256 for prompt in prompts)}
        return fingerprint(identity), fingerprint(former(identity))

    def _key(self, case: Case, sha256: str) -> str:
        return json_hash([sha256, self.render(case).messages], sort_keys=False, ensure_ascii=False)

    def signature(self, metric: str, said: Mapping[str, Judgement], version: int = VERSION) -> str:
        """Return the signature of a metric: the judge, the model names that it answered with, and its prompt."""
        models = ",".join(sorted({judgement.model for judgement in said.values() if judgement.model})) or "none"
        prompts = "+".join(prompt.sha256[:8] for prompt in self.prompts)
        made = f"judge:{self.label}|model:{models}|settings:{self.sha256[:8]}|prompt:{prompts}"
        return f"{metric}|{made}|v{version}"


class Docket(NamedTuple):
    """The cases to judge by key, the keys that are wanted now, and the file that keeps the judgements.

    Those of `heard` are wanted, but were asked about by this command already: a failed one is not asked again.
    """

    judge: Judge
    cases: Mapping[str, Case]
    wanted: Set[str]
    directory: RunDirectory
    file_name: str = JUDGEMENTS
    heard: Set[str] = frozenset()

    @property
    def path(self) -> Path:
        """Return the path of the judgements."""
        return self.directory.path / self.file_name

    def said(self) -> dict[str, Judgement]:
        """Read the last judgement of each wanted case by key."""
        return _read(self)[0]

    def left(self) -> list[str]:
        """Return the wanted keys without a settled judgement that this command has not asked about yet."""
        said = self.said()
        asked = self.wanted - self.heard
        return [key for key in self.cases if key in asked and (key not in said or not said[key].is_settled)]


class Hearing(NamedTuple):
    """The last judgement of each wanted case by key, and the tokens and cost of all about them in the file `path`."""

    path: Path
    said: dict[str, Judgement]
    counts: dict[Status, int]
    spent: Summary
    cost: Cost

    def check_failures(self, fail_on_error: float) -> None:
        """Raise a FailedSamplesError if too many replies failed or are empty."""
        lost = [each for each in self.said.values() if each.is_lost]
        check_judged(len(lost), len(self.said), self.path, fail_on_error, lost)


def plan_hearing(docket: Docket) -> Plan:
    """Plan the calls and the cost of `hear`."""
    judge = docket.judge
    prompts, subjects = [], []
    left = docket.left()
    for key in left:
        case = docket.cases[key]
        try:
            prompts.append(judge.render(case, judge.llm.prompt_budget))
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
        **priced(judge.llm, len(calls), sum(call.prompt_tokens for call in calls), judge.config.batch),
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
    """Ask about the wanted cases without a judgement on disk, and read all judgements about wanted cases."""
    if left := docket.left():
        n_wanted = len(docket.wanted)
        if len(left) < n_wanted:
            logger.info("%d of %d judgements are in %s", n_wanted - len(left), n_wanted, docket.path)
        _ask(docket, left)
    said, lines = _read(docket)
    taken = Tally(lines)
    if n_cut := sum(map(taken.is_cut, said.values())):
        logger.warning("%d judgements: by its own count the judge's server read only a part of the prompt", n_cut)
    statuses = Counter(judgement.status for judgement in said.values())
    counts: dict[Status, int] = {status: statuses[status] for status in get_args(Status)}
    spent = spent_on(lines).model_copy(update=doubts_of(said.values()))
    return Hearing(docket.path, said, counts, spent, cost_of(spent, docket.judge.llm.price))


def check_judged(failed: int, total: int, path: Path, fail_on_error: float, lost: Iterable[Exchange]) -> None:
    """Raise a FailedSamplesError if too many of the judgements in the file `path` failed or are empty.

    `lost` has these judgements; it is iterated only to raise.
    """
    if is_too_many(failed, total, fail_on_error):
        raise FailedSamplesError(
            f"{failed} of {total} judgements failed or are empty (--fail-on-error {fail_on_error:g}); the same command "
            f"asks those again; the reasons: {path}{most_frequent_reason(lost)}"
        )


def why_unread(judgement: Judgement | None) -> str | None:
    """Return why a judgement holds no verdict; a truncated reply may lack the end of its last line."""
    if judgement is None:
        return "not judged"
    if judgement.status == "ok" and judgement.is_answered:
        return None
    return f"judge {judgement.status if judgement.is_answered else judgement.why_unanswered}"


def _ask(docket: Docket, keys: Sequence[str]) -> None:
    judge, directory = docket.judge, docket.directory

    def replies() -> Iterator[Judgement]:
        return (line for line in directory.read_judgements(docket.file_name) if line.judge == judge.label)

    def progress() -> Progress:
        n_left = len(docket.left())
        return Progress(len(docket.wanted) - n_left, n_left)

    with (
        replies_under_ceiling(judge.config, docket.path, replies, progress),
        opened(judge.config, directory.path / "judge-server.log") as asking,
    ):

        async def ask(key: str) -> Asked[Judgement]:
            case = docket.cases[key]
            line: dict[str, Any] = {
                "question_id": case.question.id,
                "query": case.question.query,
                "messages": [],
                "key": key,
                "judge": judge.label,
                "runs": case.runs,
            }

            async def reply() -> Reply:
                prompt = judge.render(case, asking.llm.prompt_budget)
                line["messages"] = prompt.messages
                return await complete(asking, prompt)

            return await as_line(Judgement, line, reply)

        with stage("judging", len(keys)) as advance:
            ask_all(asking, keys, ask, directory, advance, docket.file_name)


def _read(docket: Docket) -> tuple[dict[str, Judgement], list[Judgement]]:
    """Read the last judgement of each wanted case, and all about them; without the messages, which are long."""
    lines = [
        judgement.model_copy(update={"messages": []})
        for judgement in docket.directory.read_judgements(docket.file_name)
    ]
    if any(judgement.key not in docket.cases for judgement in lines):
        now = {docket.judge.former_key(case): key for key, case in docket.cases.items()}
        lines = [line.model_copy(update={"key": now.get(line.key, line.key)}) for line in lines]
    lines = [judgement for judgement in lines if judgement.key in docket.wanted]
    return {judgement.key: judgement for judgement in lines}, lines
