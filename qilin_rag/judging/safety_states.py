"""Keep the state of each note by each prompt of a safety filter, and sum the states up."""

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
    """The state of a note by a prompt: unknown up to EMPTY; up to REFUSED the next command asks about it."""

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
    """The verdicts of one prompt. `uncertain` counts by reason, `no_images` notes without the images it needs.

    `empty` counts replies without content.
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

    `notes` counts by outcome: `unsafe` are flagged by a prompt, `kept` by none, `incomplete` lack judgements.
    `images` is the largest number of images sent with a note.
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
    """Return the notes that a prompt flags, and those that all prompts judged and none flags."""
    unsafe = (board == SafetyState.TRUE).any(axis=1)
    return unsafe, (board > SafetyState.EMPTY).all(axis=1) & ~unsafe


def state_of(line: NoteJudgement) -> SafetyState:
    """Return the state that a judgement gives."""
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
    """Return the verdict of a reply; a truncated or withheld one is uncertain, an empty one has none."""
    if line.is_lost:
        return None
    said = read_true_false(line.answer) if line.status == "ok" else None
    return "uncertain" if said is None else "true" if said else "false"


def counts_of(states: npt.NDArray[np.uint8]) -> SafetyCounts:
    """Count the states of notes by one prompt, shape (n_notes,)."""
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
