"""Training examples out of clicks: a click, and results of the same request that were not clicked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qilin_rag.data.exposures import MISSING, Ints
from qilin_rag.data.requests import Requests


class Contrasts(NamedTuple):
    """Clicks, each beside results that its request did not click; one row a click."""

    request: Ints
    """(n,)"""
    positive: Ints
    """(n,), note_idx"""
    negatives: Ints
    """(n, n_negatives), note_idx; -1 from where on the request has no further ones."""


def contrasts(requests: Requests, n_negatives: int, seed: int) -> Contrasts:
    """An example for every click of the requests, by notes."""
    clicks, others = _drawn(requests, n_negatives, seed)
    negatives = np.where(others == MISSING, MISSING, requests.note_idx[others])
    return Contrasts(requests.request[clicks], requests.note_idx[clicks], negatives)


def with_negatives(requests: Requests, n_negatives: int, seed: int) -> Ints:
    """The same examples one after another, as rows of candidates: a clicked one, and what it is told apart from."""
    clicks, others = _drawn(requests, n_negatives, seed)
    rows = np.column_stack([clicks, others])
    chosen: Ints = rows[rows != MISSING]
    return chosen


def _drawn(requests: Requests, n_negatives: int, seed: int) -> tuple[Ints, Ints]:
    """Rows of all clicks, (n,), and of what was not clicked beside each, (n, n_negatives), -1 where there is no more.

    A request's unclicked results are shuffled once, and each of its clicks takes them in this order from a place of
    its own on: none comes twice beside a click.
    """
    rng = np.random.default_rng(seed)
    clicks = np.flatnonzero(requests.clicked)
    others = np.flatnonzero(~requests.clicked)
    others = others[np.lexsort((rng.random(len(others)), requests.request[others]))]
    n_others = np.diff(requests.offsets) - requests.n_clicked
    starts = np.cumsum(n_others) - n_others
    request = requests.request[clicks]
    n = n_others[request][:, None]
    first = rng.integers(np.maximum(n, 1))
    nth = np.arange(n_negatives)[None, :]
    at = starts[request][:, None] + (first + nth) % np.maximum(n, 1)
    is_there = nth < n
    drawn = np.full(at.shape, MISSING)
    drawn[is_there] = others[at[is_there]]
    return clicks, drawn


def clicked_notes(requests: Requests, rows: Ints) -> Ints:
    """All clicked notes of these requests, (n_rows, the most that one of them has), -1 behind the last of each."""
    n_clicked = requests.n_clicked[rows]
    notes = np.full((len(rows), n_clicked.max(initial=1)), MISSING)
    for notes_of, row in zip(notes, rows, strict=True):
        one = slice(requests.offsets[row], requests.offsets[row + 1])
        found = requests.note_idx[one][requests.clicked[one]]
        notes_of[: len(found)] = found
    return notes
