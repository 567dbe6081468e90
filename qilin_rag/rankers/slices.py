"""Divide requests and candidates into the parts that figures are shown for.

Everything here handles whole columns. A request or candidate of no kind (no time, no note type) is in no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import Bools, Ints
from qilin_rag.data.requests import Requests
from qilin_rag.data.sessions import app_sessions, pause_sessions
from qilin_rag.rankers.page_columns import PAGE_COLUMNS, column_of

NONE = -1
ANSWER = "answer"
"""The division of requests by whether an answer was shown."""
_LAST_ORDINAL = 10
_QUERY_LENGTHS = ("<=3", *map(str, range(4, 11)), ">10")
_NOTE_TYPES = {1.0: "image-text", 2.0: "video"}


class Partition(NamedTuple):
    """Kinds by name; `of` is the place in `labels` of each request (n,) or candidate (m,), -1 if it has none."""

    name: str
    labels: tuple[str, ...]
    of: Ints


def of_requests(requests: Requests, log: Sequence[Requests], gap_s: int) -> list[Partition]:
    """Divide requests by what was asked and when.

    Args:
        requests: The requests to divide.
        log: All requests there are, searches and recommendations of every split, `requests` among them.
        gap_s: The longest pause within a session by the rule of pauses, in seconds.

    Returns:
        Length and source of the query (searches only), place in the session of both kinds (see `data.sessions`), and
        whether an answer was shown (if one was shown for some).
    """
    places = {
        "place in session (app)": app_sessions(requests, log),
        "place in session (pause)": pause_sessions(requests, log, gap_s),
    }
    labels = (*map(str, range(1, _LAST_ORDINAL + 1)), f">{_LAST_ORDINAL}")
    parts = [
        Partition(name, labels, np.where(number >= 0, np.minimum(ordinal, _LAST_ORDINAL + 1) - 1, NONE))
        for name, (number, ordinal) in places.items()
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
        parts.append(Partition(ANSWER, ("not shown", "shown"), requests.answered.astype(np.int64)))
    return parts


def of_candidates(
    requests: Requests, catalogue: Catalogue, train: Requests | None, with_columns: bool = False
) -> list[Partition]:
    """Divide candidates by whether the note is in the train log, by type of note, and by column of the page.

    A note is in the train log if a request of `train` showed it, or has it among its recent clicks. The type is left
    out if the data does not have it, the column if no position is known, or unless it is asked for: `with_columns` is
    for positions on a page, which candidates that were not shown lack.
    """
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
    if with_columns and (requests.position > 0).any():
        parts.append(Partition("column of the page", PAGE_COLUMNS, column_of(requests.position)))
    return parts


def _is_in(values: Ints, known: Ints) -> Ints:
    found: Bools = np.isin(values, known)
    return found.astype(np.int64)
