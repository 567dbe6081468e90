"""The rows of the list of runs: what is known of a run at this moment."""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat, NonNegativeInt

from qilin_rag.core.types import Cost, Frozen, Usage

State = Literal["running", "interrupted", "complete", "unreadable"]


class RunRow(Frozen):
    """A run or a ranking in the list.

    Attributes:
        id: Its kind and key.
        key: Its key in `Folders`.
        state: `running`: a process writes it at this moment. `interrupted`: no process does, and questions are left.
        why: The reason why it can't be read.
        retriever: Its retriever, or the ranker of a ranking.
        unit: The things that `done` and `total` count.
        done: Questions with an outcome, whatever it is.
        statuses: The number of questions with each outcome, without those of 0.
        failed: Questions without an answer, but for those that a filter or a refusal held back.
        rate: Questions a minute over the last minute; None if it is not running, or not yet known.
        left_s: Seconds until all questions are asked, at this rate.
        usage: The tokens of all calls so far.
        cached: Answers that came from the cache.
        retries: Tries beyond the first.
        cost: The cost of all calls so far.
        figures: The means of a run whose scores are those of its summary.
        is_read: Whether all that is written was read. If not, counts and figures are of a part.
    """

    id: str
    key: str
    kind: Literal["run", "ranking"] = "run"
    state: State
    why: str | None = None
    data: str = ""
    retriever: str = ""
    llm: str = ""
    prompt: str = ""
    unit: Literal["questions", "requests"] = "questions"
    done: NonNegativeInt = 0
    total: NonNegativeInt = 0
    statuses: dict[str, NonNegativeInt] = {}
    failed: NonNegativeInt = 0
    rate: FiniteFloat | None = None
    left_s: FiniteFloat | None = None
    usage: Usage | None = None
    cached: NonNegativeInt = 0
    retries: NonNegativeInt = 0
    cost: Cost | None = None
    started: str | None = None
    updated: str | None = None
    figures: dict[str, FiniteFloat | None] = {}
    is_read: bool = True
