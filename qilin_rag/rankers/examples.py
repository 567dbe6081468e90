"""Make training examples from clicks: a click, and results of the same request that were not clicked.

Requests of one query are considered together: for a model that reads only query and note, two users' opposite behaviour
towards one note would be both right and wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.core.text import query_key
from qilin_rag.data.exposures import MISSING, Bools, Ints, offsets_of
from qilin_rag.data.requests import Requests


class Contrasts(NamedTuple):
    """Clicks, each with results of its request that no request of its query clicked; one row for each click."""

    request: Ints
    """(n,)"""
    positive: Ints
    """(n,), note_idx"""
    negatives: Ints
    """(n, n_negatives), note_idx; padded with -1"""


def query_numbers(queries: Sequence[str]) -> Ints:
    """Number the queries, (n,): equal texts share a number, and each empty query has its own."""
    keys = [query_key(query) or f"\0{row}" for row, query in enumerate(queries)]
    _, numbers = np.unique(np.array(keys, dtype=object), return_inverse=True)
    return numbers


class ClickedNotes(NamedTuple):
    """The notes clicked under each query, and the query of each request."""

    query: Ints
    """(n_requests,): `query_numbers`."""
    offsets: Ints
    notes: Ints
    """The notes of query q, ascending: from offsets[q] to offsets[q + 1]."""

    @classmethod
    def of(cls, requests: Requests) -> ClickedNotes:
        """Gather the clicks of all requests by query."""
        query = query_numbers(requests.queries)
        n_queries = int(query.max(initial=-1)) + 1
        notes, note = np.unique(requests.note_idx, return_inverse=True)
        pairs = np.unique((query[requests.request] * len(notes) + note)[requests.clicked])
        of_query, at = np.divmod(pairs, max(len(notes), 1))
        return cls(query, offsets_of(np.bincount(of_query, minlength=n_queries)), notes[at])

    def of_requests(self, rows: Ints) -> Ints:
        """Return the notes clicked under the queries of these requests, (n_rows, the most of one), padded with -1."""
        query = self.query[rows]
        n = self.offsets[query + 1] - self.offsets[query]
        nth = np.arange(n.max(initial=1))
        at = np.minimum(self.offsets[query][:, None] + nth, max(len(self.notes) - 1, 0))
        notes = self.notes if len(self.notes) else np.full(1, MISSING)
        return np.where(nth < n[:, None], notes[at], MISSING)


def contrasts(requests: Requests, n_negatives: int, seed: int) -> Contrasts:
    """Make an example for every click of the requests, by notes.

    What any request of the same query clicked is not a negative: the loss would compare it with clicks of the batch
    under which it was not even shown.
    """
    n_clicks, _ = _counts_of_query(requests)
    clicks, others = _drawn(requests, n_clicks == 0, n_negatives, seed)
    negatives = np.where(others == MISSING, MISSING, requests.note_idx[others])
    return Contrasts(requests.request[clicks], requests.note_idx[clicks], negatives)


def with_negatives(requests: Requests, n_negatives: int, seed: int) -> Ints:
    """Return examples in sequence, as rows of candidates: a clicked one, and its negatives.

    A negative was shown to its request, not clicked, and clicked in fewer than half of the requests of its query that
    showed it. If every note that was clicked once were left out, a note with one stray click would keep only this
    click.
    """
    n_clicks, n_shown = _counts_of_query(requests)
    clicks, others = _drawn(requests, 2 * n_clicks < n_shown, n_negatives, seed)
    rows = np.column_stack([clicks, others])
    chosen: Ints = rows[rows != MISSING]
    return chosen


def _counts_of_query(requests: Requests) -> tuple[Ints, Ints]:
    """Return in how many requests of its query each candidate's note was clicked, and shown: (m,) both."""
    _, note = np.unique(requests.note_idx, return_inverse=True)
    pairs = query_numbers(requests.queries)[requests.request] * (int(note.max(initial=0)) + 1) + note
    _, pair = np.unique(pairs, return_inverse=True)
    n_clicks = np.bincount(pair, requests.clicked).astype(np.int64)
    return n_clicks[pair], np.bincount(pair)[pair]


def _drawn(requests: Requests, may_be: Bools, n_negatives: int, seed: int) -> tuple[Ints, Ints]:
    """Return the rows of all clicks, (n,), and of the negatives of each, (n, n_negatives), padded with -1.

    The results of a request that were not clicked and that `may_be` negatives are shuffled once. Each of its clicks
    takes them in this order from its own start, without duplicates.
    """
    rng = np.random.default_rng(seed)
    clicks = np.flatnonzero(requests.clicked)
    others = np.flatnonzero(~requests.clicked & may_be)
    others = others[np.lexsort((rng.random(len(others)), requests.request[others]))]
    n_others = np.bincount(requests.request[others], minlength=len(requests))
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
