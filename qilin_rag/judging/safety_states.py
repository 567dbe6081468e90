"""What a safety filter makes of notes: the state of each by each prompt, and what is said of all of them."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

from qilin_rag.core.types import Cost, Frozen, NoteJudgement, Usage
from qilin_rag.judging.safety_labels import Agreement
from qilin_rag.judging.verdicts import read_true_false

Board = npt.NDArray[np.uint8]
"""The `SafetyState` of each note (in storage order) by each prompt, shape (n_notes, n_prompts)."""


class SafetyState(IntEnum):
    """What is known of a note by a prompt: up to EMPTY nothing is; up to REFUSED it is asked by the next command."""

    UNASKED = 0
    FAILED = 1
    EMPTY = 2
    REFUSED = 3
    NO_IMAGES = 4
    FALSE = 5
    TRUE = 6
    NO_VERDICT = 7
    TRUNCATED = 8
    FILTERED = 9
    IMAGES_UNREADABLE = 10


UNCERTAIN = {
    SafetyState.REFUSED: "refused",
    SafetyState.NO_VERDICT: "no verdict",
    SafetyState.TRUNCATED: "truncated",
    SafetyState.FILTERED: "filtered",
    SafetyState.IMAGES_UNREADABLE: "no image can be read",
}


class SafetyCounts(Frozen):
    """What came out by one prompt. `uncertain` counts by reason; `no_images`: notes without what it asks about.

    `empty`: a reply came, and nothing is in it.
    """

    true: int
    false: int
    uncertain: dict[str, int]
    failed: int
    empty: int = 0
    no_images: int
    not_asked: int


class FilterSummary(Frozen):
    """summary.json: what the filter did, a function of its judgements (and labels) alone.

    Of `notes`, `unsafe` ones are flagged by a prompt, `kept` ones by none, `incomplete` ones lack judgements;
    `images` is the most that went with a note.
    """

    data: str
    data_sha256: str
    llm: str
    prompts: dict[str, str]
    images: int
    notes: dict[str, int]
    by_prompt: dict[str, SafetyCounts]
    images_left_out: dict[str, int]
    usage: Usage
    uncounted: int
    cached: int
    cost: Cost
    agreement: dict[str, Agreement] | None = None


def flagged_and_kept(board: Board) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The notes that a prompt flags, and those that were judged by all prompts and are flagged by none."""
    unsafe = (board == SafetyState.TRUE).any(axis=1)
    return unsafe, (board > SafetyState.EMPTY).all(axis=1) & ~unsafe


def state_of(line: NoteJudgement) -> SafetyState:
    """What a judgement on disk says."""
    if line.status == "filtered":
        return SafetyState.FILTERED if line.is_settled else SafetyState.REFUSED
    if line.status == "ok" and line.finish_reason is None:
        return SafetyState.IMAGES_UNREADABLE
    if not line.is_answered:
        return SafetyState.FAILED if line.status == "failed" else SafetyState.EMPTY
    if line.status == "truncated":
        return SafetyState.TRUNCATED
    return {"true": SafetyState.TRUE, "false": SafetyState.FALSE}.get(line.verdict or "", SafetyState.NO_VERDICT)


def verdict_of(line: NoteJudgement) -> Literal["true", "false", "uncertain"] | None:
    """A reply that was cut off, or that the provider held back, says nothing for sure; an empty one nothing at all."""
    if line.is_lost:
        return None
    said = read_true_false(line.answer) if line.status == "ok" else None
    return "uncertain" if said is None else "true" if said else "false"


def counts_of(states: npt.NDArray[np.uint8]) -> SafetyCounts:
    """How many notes are in each state by one prompt, shape (n_notes,)."""
    n = np.bincount(states, minlength=len(SafetyState)).tolist()
    return SafetyCounts(
        true=n[SafetyState.TRUE],
        false=n[SafetyState.FALSE],
        uncertain={reason: n[state] for state, reason in UNCERTAIN.items() if n[state]},
        failed=n[SafetyState.FAILED],
        empty=n[SafetyState.EMPTY],
        no_images=n[SafetyState.NO_IMAGES],
        not_asked=n[SafetyState.UNASKED],
    )
