"""Training examples out of clicks: a click, and results of the same request that were not clicked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qilin_rag.data.requests import MISSING, Ints, Requests


class Contrasts(NamedTuple):
    """Clicks, each beside results that its request did not click; one row a click."""

    request: Ints
    """(n,)"""
    positive: Ints
    """(n,), note_idx"""
    negatives: Ints
    """(n, n_negatives), note_idx; -1 from where on the request has no further ones."""


def contrasts(requests: Requests, n_negatives: int, seed: int) -> Contrasts:
    """An example for every click of the requests.

    A request's unclicked results are shuffled once, and each of its clicks takes them in this order from a place of
    its own on: no negative comes twice in an example, and none was clicked.
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
    negatives = np.full(at.shape, MISSING)
    negatives[is_there] = requests.note_idx[others[at[is_there]]]
    return Contrasts(request, requests.note_idx[clicks], negatives)


def clicked_notes(requests: Requests, rows: Ints) -> Ints:
    """All clicked notes of these requests, (n_rows, the most that one of them has), -1 behind the last of each."""
    n_clicked = requests.n_clicked[rows]
    notes = np.full((len(rows), n_clicked.max(initial=1)), MISSING)
    for notes_of, row in zip(notes, rows, strict=True):
        one = slice(requests.offsets[row], requests.offsets[row + 1])
        found = requests.note_idx[one][requests.clicked[one]]
        notes_of[: len(found)] = found
    return notes
