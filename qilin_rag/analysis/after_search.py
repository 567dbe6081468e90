"""Find what follows each search in the log: other searches of the user, reformulations, time on clicked notes."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.analysis.log import Log
from qilin_rag.analysis.transitions import reformulation
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import stage
from qilin_rag.core.text import query_key
from qilin_rag.data.exposures import MISSING, Bools, Ints
from qilin_rag.data.feedback import (
    RE_SEARCH_MINUTES,
    SAME_NEED,
    check_minutes,
    check_similarity,
    pairs_within,
    same_need,
)

LONG_CLICK_S = 30.0
"""The seconds from which a click is long, and taken for a satisfied one (Fox et al. 2005)."""


class ReSearchLimits(NamedTuple):
    """The limits of a re-search and of a long click.

    Attributes:
        minutes: The most minutes between a search and another one for the same need.
        similarity: The least similarity of their queries (Dice's coefficient of their tokens).
        long_click_s: The fewest seconds on a note of a long click.
    """

    minutes: float = RE_SEARCH_MINUTES
    similarity: float = SAME_NEED
    long_click_s: float = LONG_CLICK_S


class AfterSearch:
    """The searches that followed each search of a log, (n,) each; the values of other requests do not count.

    Attributes:
        is_followed: By name, whether a search followed within the time of the limits: `re-search`, `same query` (a
            reload, or a return to the page), or `another need`.
        next_row: The row of the first search within this time; -1 if there is none.
    """

    def __init__(self, log: Log, limits: ReSearchLimits) -> None:
        check_minutes(limits.minutes, log.settings)
        check_similarity(limits.similarity)
        if not limits.long_click_s > 0:
            raise UsageError(f"long_click_s must be above 0, not {limits.long_click_s:g}")
        self._log, self._limits = log, limits
        self.is_followed, self.next_row = _followed(log, limits)

    @cached_property
    def reformulates(self) -> Bools:
        """Return whether the next search has other characters beside some of the same, as the paper's Table 8."""
        queries = self._log.shown.queries
        found = np.zeros(len(self.next_row), bool)
        for row in np.flatnonzero(self.next_row >= 0).tolist():
            before, after = queries[row], queries[self.next_row[row]]
            found[row] = bool(before and after) and reformulation(before, after) in ("Add", "Delete", "Change")
        return found

    @cached_property
    def is_timed(self) -> Bools:
        """Return whether the page times of all clicked results are known; True without a click."""
        log = self._log
        n_untimed = np.bincount(log.shown.request, log.clicked & (log.shown.page_time_s < 0), minlength=len(log.shown))
        timed: Bools = n_untimed == 0
        return timed

    @cached_property
    def has_long_click(self) -> Bools:
        """Return whether a clicked note was open for the seconds of a long click."""
        log = self._log
        is_long = log.clicked & (log.shown.page_time_s >= self._limits.long_click_s)
        found: Bools = np.bincount(log.shown.request, is_long, minlength=len(log.shown)) > 0
        return found

    @cached_property
    def dwell_s(self) -> npt.NDArray[np.float64]:
        """Return the mean seconds on the clicked notes; -1 without a click, or if a time is not known."""
        log = self._log
        seconds = np.where(log.clicked, log.shown.page_time_s, 0).astype(np.float64)
        total = np.bincount(log.shown.request, seconds, minlength=len(log.shown))
        is_known = self.is_timed & (log.n_clicks > 0)
        return np.where(is_known, total / np.maximum(log.n_clicks, 1), float(MISSING))


def abandonment(no_click: Bools, is_re_search: Bools) -> dict[str, Bools]:
    """Return searches without a click in two kinds: left at that, as a satisfied user may, or asked again."""
    return {"no click, no re-search": no_click & ~is_re_search, "no click, re-search": no_click & is_re_search}


def _followed(log: Log, limits: ReSearchLimits) -> tuple[dict[str, Bools], Ints]:
    rows = np.flatnonzero(log.shown.is_search)
    searches = log.shown.take(rows)
    keys = np.unique(np.array([query_key(query) for query in searches.queries] or [""]), return_inverse=True)[1]
    has_query = np.array([bool(query_key(query)) for query in searches.queries], bool)
    is_followed = {name: np.zeros(len(log.shown), bool) for name in ("re-search", "same query", "another need")}
    next_row = np.full(len(log.shown), MISSING)
    with stage("searches that follow", 1) as advance:
        for before, after in pairs_within(searches, limits.minutes):
            is_first = next_row[rows[before]] == MISSING
            next_row[rows[before[is_first]]] = rows[after[is_first]]
            repeats = (keys[before] == keys[after]) & has_query[before]
            again = same_need(searches.queries, before, after, limits.similarity)
            for name, kind in zip(is_followed, (again, repeats, ~again & ~repeats), strict=True):
                is_followed[name][rows[before[kind]]] = True
        advance()
    return is_followed, next_row
