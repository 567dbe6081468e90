"""Keep what was read of a run's long files, for as long as they stay as they are.

A file counts as the same while its inode, size and times are. What was read of a file that has just changed is not
kept: it may change again within one tick of the file system's clock.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from pathlib import Path

from qilin_rag.core.figure_store import current_store, figure_key
from qilin_rag.core.plain_files import FileState, file_state

_SETTLED_AFTER_NS = 2 * 10**9


class KeptPart:
    """Something that was read of a run; within a `kept_figures` block it is kept for other processes.

    Make it before the files are read: it is kept only if they are then as they were.

    Args:
        directory: The run directory.
        name: The name of what was read.
        files: The names of all files that it was read from.
        made_of: What else it depends on.
    """

    def __init__(self, directory: Path, name: str, files: Sequence[str], *made_of: Hashable) -> None:
        self._paths = [directory / file for file in files]
        self._store = current_store()
        self._states = self._look()
        self._key = figure_key("run", name, str(directory.resolve()), *files, self._states, *made_of)

    def read(self) -> bytes | None:
        """Return what was kept; None if nothing was, or a file has changed since."""
        return self._store.get([self._key]).get(self._key) if self._store else None

    def keep(self, content: bytes) -> None:
        """Keep what was read, unless a file has changed meanwhile, or so lately that it may change unseen."""
        if self._store and self._look() == self._states and self._is_settled():
            self._store.put({self._key: content})

    def _look(self) -> tuple[FileState, ...]:
        return tuple(map(file_state, self._paths)) if self._store else ()

    def _is_settled(self) -> bool:
        latest_ns = max((changed_ns for state in self._states if state for changed_ns in state[2:]), default=0)
        return time.time_ns() - latest_ns > _SETTLED_AFTER_NS
