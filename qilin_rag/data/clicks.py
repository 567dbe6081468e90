"""The clicks of all users in time order, and the history of a user before a request.

Search and recommendation are one history: the clocks of both tables are merged (`log.search_shift_s`). A history holds
only what was clicked before the request began, to the millisecond.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from qilin_rag.core.arrays import ranges
from qilin_rag.data.exposures import MISSING, Bools, Ints, RequestColumns, offsets_of

Kind = Literal["both", "search", "recommendation"]


@dataclass(frozen=True)
class ClickLog:
    """Clicks in the order of users, time, and a hash; a click without user or time is left out.

    A click has the time of its request. The order within a request is by hash, because a request's clicks are not
    timed, and an order by id would tell something about the notes.
    """

    user_idx: Ints
    """(k,), ascending, like the next."""
    time_ms: Ints
    """Since 1970 in UTC, ascending for each user."""
    note_idx: Ints
    is_search: Bools
    """Whether the note was clicked in a search; the others were recommended."""
    is_train: Bools
    """Whether a ranker may learn from the click; the others are only part of histories."""
    query: Ints
    """The place in `queries` of the request's query."""
    queries: Sequence[str]

    def __len__(self) -> int:
        return len(self.user_idx)

    @cached_property
    def sha256(self) -> str:
        """Return the hash of all clicks."""
        total = hashlib.sha256("\0".join(self.queries).encode())
        for field in fields(self):
            if field.name != "queries":
                total.update(getattr(self, field.name).tobytes())
        return total.hexdigest()

    def take(self, chosen: Bools) -> ClickLog:
        """Return the clicks for which the mask (k,) is set."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return ClickLog(**{name: values if name == "queries" else values[chosen] for name, values in columns.items()})

    def kinds(self, kind: Kind) -> Bools:
        """Return which clicks are of searches or of recommendations, (k,); all of them if `kind` is both."""
        return np.ones(len(self), bool) if kind == "both" else self.is_search == (kind == "search")


class Histories(NamedTuple):
    """The earlier clicks of the user of each of `n` requests, oldest first.

    The clicks of request i are the rows offsets[i] to offsets[i + 1].
    """

    offsets: Ints
    note_idx: Ints
    """(h,)"""
    click: Ints
    """(h,), the row of the click log; -1 for a click that only the request itself records, without a time."""

    def take(self, chosen: Bools) -> Histories:
        """Return the histories of the same requests with the clicks for which the mask (h,) is set."""
        n = np.add.reduceat(np.append(chosen, False), self.offsets[:-1]) * (np.diff(self.offsets) > 0)
        return Histories(offsets_of(n), self.note_idx[chosen], self.click[chosen])

    def padded(self, values: Ints, n_most: int, padding: int) -> Ints:
        """Return values of the clicks, (h,), as (n, n_most), padded at the end; no history may be longer."""
        lengths = np.diff(self.offsets)
        is_there = np.arange(n_most) < lengths[:, None]
        found = np.full(is_there.shape, padding)
        found[is_there] = values
        return found


def rows_before(keys: Ints, times: Ints, wanted_keys: Ints, wanted_times: Ints) -> tuple[Ints, Ints]:
    """Return the rows of each wanted key that are earlier than its time, as start and end, (n_wanted,) both.

    Args:
        keys: (k,), ascending.
        times: (k,), ascending for each key.
        wanted_keys: (n_wanted,)
        wanted_times: (n_wanted,); rows of the same time are not earlier.

    >>> rows_before(np.array([3, 3, 3, 7]), np.array([10, 20, 30, 10]), np.array([3, 7, 5]), np.array([30, 10, 99]))
    (array([0, 3, 3]), array([2, 3, 3]))
    """
    names, moments = np.unique(keys), np.unique(times)
    width = len(moments) + 1

    def joint(key: Ints, time: Ints) -> Ints:
        placed: Ints = np.searchsorted(names, key) * width + np.searchsorted(moments, time)
        return placed

    starts: Ints = np.searchsorted(keys, wanted_keys).astype(np.int64)
    ends: Ints = np.searchsorted(joint(keys, times), joint(wanted_keys, wanted_times)).astype(np.int64)
    is_known = np.searchsorted(keys, wanted_keys, side="right") > starts
    return starts, np.where(is_known, ends, starts)


def histories(requests: RequestColumns, log: ClickLog, n_most: int, kind: Kind = "both") -> Histories:
    """Return the latest clicks of each request's user before the request.

    These are the clicks of the log that are earlier than the request, whichever table they are from. Older than those
    are the clicks that the request itself records (`recent_clicked_note_idxs`), without notes that the log has.

    Args:
        requests: Any requests; one without user or time has only what it records.
        log: The clicks of all users.
        n_most: The most clicks of a history.
        kind: Which clicks count; it is not recorded whether a recorded click was in a search, so they are of `both`.
    """
    counted = np.flatnonzero(log.kinds(kind))
    starts, ends = rows_before(log.user_idx[counted], log.time_ms[counted], requests.user_idx, requests.time_ms)
    n_logged = ends - starts
    click = counted[ranges(starts, n_logged)]
    request = np.repeat(np.arange(len(requests)), n_logged)
    notes = log.note_idx[click]
    if kind == "both":
        n_recorded = np.diff(requests.recent_offsets)
        of_recorded = np.repeat(np.arange(len(requests)), n_recorded)
        nth = ranges(np.zeros(len(requests), np.int64), n_recorded)
        newest_last = np.lexsort((-nth, of_recorded))
        recorded, of_recorded = requests.recent[newest_last], of_recorded[newest_last]
        is_older = (recorded >= 0) & ~_is_among(of_recorded, recorded, request, notes)
        request = np.concatenate([of_recorded[is_older], request])
        notes = np.concatenate([recorded[is_older], notes])
        click = np.concatenate([np.full(int(is_older.sum()), MISSING), click])
        order = np.argsort(request, kind="stable")
        request, notes, click = request[order], notes[order], click[order]
    n = np.bincount(request, minlength=len(requests))
    from_end = np.repeat(np.cumsum(n), n) - np.arange(len(request))
    kept = from_end <= n_most
    return Histories(offsets_of(np.minimum(n, n_most)), notes[kept], click[kept])


def _is_among(request: Ints, notes: Ints, known_request: Ints, known_notes: Ints) -> Bools:
    """Return whether each pair of request and note is among the known pairs."""
    names, code = np.unique(np.concatenate([notes, known_notes]), return_inverse=True)
    pairs = np.concatenate([request, known_request]) * max(len(names), 1) + code
    found: Bools = np.isin(pairs[: len(notes)], pairs[len(notes) :])
    return found
