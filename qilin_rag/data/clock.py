"""The clock of search timestamps: the assumed shift, and the evidence in the data for or against it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from qilin_rag.data.exposures import BEIJING_MS, Bools, Ints, RequestColumns
from qilin_rag.data.log_settings import LogSettings

LATE_HOUR = 22
"""The hour in Beijing after which the paper's test requests begin."""
_HOUR_MS = 3600 * 1000


class SplitTimes(NamedTuple):
    """The start times of the requests in a test table, in Beijing time."""

    n: int
    """The number of requests with a time."""
    n_late: int
    """Those after 22:00."""
    earliest_ms: int
    """Since 1970 in UTC."""

    @property
    def earliest(self) -> str:
        """Return the earliest time as text, in Beijing time."""
        return datetime.fromtimestamp((self.earliest_ms + BEIJING_MS) / 1000, UTC).strftime("%Y-%m-%d %H:%M")


class ClockCheck(NamedTuple):
    """The assumed clock of searches and the evidence in the data.

    Attributes:
        tests: The times of `search` and `recommendation`, for each of these test tables that the data has with times.
        n_sessions: The number of app sessions that hold both kinds of requests.
        ahead_h: The median over these sessions of the hours by which the timestamps of searches are ahead of those of
            recommendations (None: no such session).
    """

    shift_s: int
    tests: Mapping[str, SplitTimes]
    n_sessions: int
    ahead_h: float | None

    def sentence(self) -> str:
        """Return the check in one or two sentences; empty if no request has a time."""
        text = (
            f"Search timestamps are assumed to be {self.shift_s / 3600:g} h ahead of true time, those of "
            f"recommendations to be true (log.search_shift_s={self.shift_s}); the data does not document this."
        )
        if self.tests:
            late = ", ".join(f"{times.n_late} of {times.n} ({kind})" for kind, times in self.tests.items())
            text += f" Test requests after {LATE_HOUR}:00 in Beijing, where the paper cuts: {late}."
        if len(self.tests) == 2:
            first, second = (times.earliest_ms for times in self.tests.values())
            text += f" The first of each kind are {abs(first - second) / _HOUR_MS:.1f} h apart."
        if self.ahead_h is not None:
            text += f" Timestamps of searches are {self.ahead_h:.1f} h ahead of those of recommendations in the same"
            text += f" session of the app (median of {self.n_sessions})."
        return text


def check_clock(tables: Mapping[str, RequestColumns], settings: LogSettings) -> ClockCheck:
    """Collect the evidence for or against the assumed clock of searches from request tables by name."""
    tests = {}
    for kind in ("search", "recommendation"):
        table = tables.get(f"{kind}_test")
        if table is not None and len(times := table.time_ms[table.time_ms >= 0]):
            hour = (times + BEIJING_MS) // _HOUR_MS % 24
            tests[kind] = SplitTimes(len(times), int((hour >= LATE_HOUR).sum()), int(times.min()))
    columns = [(table.session_idx, table.time_ms, table.is_search) for table in tables.values()]
    session, time, is_search = (np.concatenate(each) for each in zip(*columns, strict=True))
    has_session = (session >= 0) & (time >= 0)
    ahead_ms = _ahead_ms(session[has_session], time[has_session], is_search[has_session])
    ahead_h = float(np.median(ahead_ms)) / _HOUR_MS + settings.search_shift_s / 3600 if len(ahead_ms) else None
    return ClockCheck(settings.search_shift_s, tests, len(ahead_ms), ahead_h)


def _ahead_ms(session: Ints, time: Ints, is_search: Bools) -> Ints:
    """Return the mean time by which searches are later than recommendations, for each session with both kinds."""
    names, session_numbers = np.unique(session, return_inverse=True)
    n_searches, n_others = (
        np.bincount(session_numbers[kind], minlength=len(names)) for kind in (is_search, ~is_search)
    )
    both = (n_searches > 0) & (n_others > 0)
    searched, other = (
        np.bincount(session_numbers[kind], time[kind], minlength=len(names))[both] for kind in (is_search, ~is_search)
    )
    ahead: Ints = (searched / n_searches[both] - other / n_others[both]).astype(np.int64)
    return ahead
