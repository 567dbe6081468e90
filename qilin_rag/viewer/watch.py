"""Keep the state of every run up to date, reading only what was written since the last look.

A look at a run that has not changed costs a few calls of `stat`, and one at a run that is being written reads the new
lines of its samples. Nothing in a run changes by it: even the lock is only looked at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.rows import RunRow
from qilin_rag.viewer.watched import Budget, Watched, WatchedRanking, WatchedRun

LOOK_S = 1.0
_WORK_S = 0.7
_AMPLE, _SCANT = Budget(64 << 20, True), Budget(1 << 20, False)


class RunWatcher:
    """The state of all runs, for all who look at them: the folders are looked at once a second at most.

    Args:
        folders: The runs.
        clock: Gives the time in seconds since the epoch.
    """

    def __init__(self, folders: Folders, clock: Callable[[], float] = time.time) -> None:
        self._folders, self._clock = folders, clock
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._rows: dict[str, RunRow] = {}
        self._looked_s: float | None = None

    def rows(self) -> dict[str, RunRow]:
        """Return the rows by id. A row that has not changed is the same object as before."""
        with self._lock:
            now_s = self._clock()
            if self._looked_s is None or not 0 <= now_s - self._looked_s < LOOK_S:
                self._rows = self._look(now_s)
                self._looked_s = now_s
            return self._rows

    def _look(self, now_s: float) -> dict[str, RunRow]:
        """Look at all runs. Those that come late are read in part, and the rest at later looks."""
        found: list[Watched] = [WatchedRun(*run) for run in self._folders.runs().items()]
        found += [WatchedRanking(*ranking) for ranking in self._folders.rankings().items()]
        watched, rows, began_s = {}, {}, time.monotonic()
        for new in found:
            known = self._watched.get(new.id)
            watched[new.id] = known if known and known.path == new.path else new
            row = watched[new.id].look(now_s, _AMPLE if time.monotonic() - began_s < _WORK_S else _SCANT)
            before = self._rows.get(row.id)
            rows[row.id] = before if before == row else row
        self._watched = watched
        return rows
