"""The parts that figures are looked at by: kinds of requests, and kinds of candidates.

Everything here is about whole columns. A request or candidate of no kind (no time, no note type) is in no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import MISSING, Bools, Ints
from qilin_rag.data.requests import Requests

NONE = -1
_LAST_ORDINAL = 10
_QUERY_LENGTHS = ("<=3", *map(str, range(4, 11)), ">10")
_NOTE_TYPES = {1.0: "image-text", 2.0: "video"}


class Partition(NamedTuple):
    """Kinds by name; `of` is the place in `labels` of each request (n,) or candidate (m,), -1 where it has none."""

    name: str
    labels: tuple[str, ...]
    of: Ints


def of_requests(requests: Requests, log: Sequence[Requests]) -> list[Partition]:
    """By length and source of the query (searches alone), place in the session (`log`: see `session_ordinals`), and
    whether an answer was shown (where it was for some)."""
    ordinals = session_ordinals(requests, log)
    parts = [
        Partition(
            "place in session",
            (*map(str, range(1, _LAST_ORDINAL + 1)), f">{_LAST_ORDINAL}"),
            np.where(ordinals > 0, np.minimum(ordinals, _LAST_ORDINAL + 1) - 1, NONE),
        )
    ]
    if requests.is_search.all():
        lengths = np.fromiter(map(len, requests.queries), np.int64, len(requests))
        of_length = np.clip(lengths, 3, 11) - 3
        is_known = (requests.source >= 0) & (requests.source <= 8)
        of_source = np.where(is_known, (requests.source - 1) % 9, NONE)  # 0, a missing one, is the last
        parts = [
            Partition("query length", _QUERY_LENGTHS, of_length),
            Partition("query source", (*map(str, range(1, 9)), "missing"), of_source),
            *parts,
        ]
    if requests.answered.any():
        parts.append(Partition("answer", ("not shown", "shown"), requests.answered.astype(np.int64)))
    return parts


def session_ordinals(requests: Requests, log: Sequence[Requests]) -> Ints:
    """The place of each request in its session, (n,): 1 + the requests of that session in `log` that began earlier.

    `log` are all requests there are, searches and recommendations of every split, `requests` among them. 0 where
    session or time is not known.
    """
    session, time = (np.concatenate([getattr(part, name) for part in log]) for name in ("session_idx", "time_ms"))
    is_known = (session != MISSING) & (time >= 0)
    sessions, times = np.unique(session[is_known]), np.unique(time[is_known])

    def key(session: Ints, time: Ints) -> Ints:
        """Numbers that go up by session, then by time."""
        key: Ints = np.searchsorted(sessions, session) * (len(times) + 1) + np.searchsorted(times, time)
        return key

    keys = np.sort(key(session[is_known], time[is_known]))
    own = (requests.session_idx != MISSING) & (requests.time_ms >= 0)
    ordinals = np.zeros(len(requests), np.int64)
    first = key(requests.session_idx[own], np.full(own.sum(), MISSING))
    at = key(requests.session_idx[own], requests.time_ms[own])
    ordinals[own] = np.searchsorted(keys, at) - np.searchsorted(keys, first) + 1
    return ordinals


def of_candidates(requests: Requests, catalogue: Catalogue, train: Requests | None) -> list[Partition]:
    """By type of note (where the data says it), and by whether the note is in the train log: shown in one of the
    requests `train`, or among their recent clicks."""
    parts = []
    if train is not None:
        known = np.union1d(train.note_idx, train.recent)
        parts.append(Partition("seen in train", ("no, cold start", "yes"), _is_in(requests.note_idx, known)))
    if "note_type" in catalogue.notes.columns:
        notes, of = np.unique(requests.note_idx, return_inverse=True)
        column = catalogue.notes.read(notes, ["note_type"]).column(0)
        types = column.to_numpy().astype(np.float64)  # null is NaN
        of_note = np.full(len(notes), NONE)
        for place, kind in enumerate(_NOTE_TYPES):
            of_note[types == kind] = place
        parts.append(Partition("note type", tuple(_NOTE_TYPES.values()), of_note[of]))
    return parts


def _is_in(values: Ints, known: Ints) -> Ints:
    found: Bools = np.isin(values, known)
    return found.astype(np.int64)
