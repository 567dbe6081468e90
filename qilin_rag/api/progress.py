"""Show the progress of a run in one line of standard error, in a terminal or a notebook."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from qilin_rag.core.progress import Advance, watched_by

_EVERY_S = 0.2


class LineProgress:
    """Writes the innermost stage over one line, and clears it in the end, so that output stays as it is.

    Only a carriage return moves back, which notebooks understand as well.
    """

    def __init__(self) -> None:
        """Begin without a line."""
        self._lock = threading.Lock()
        self._written_s = 0.0
        self._width = 0

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Advance]:
        """Show a stage while the block runs."""
        n_done, n_failed = done, 0

        def advance(n: int = 1, failed: bool = False) -> None:
            nonlocal n_done, n_failed
            with self._lock:
                n_done += n
                n_failed += n * failed
                if time.monotonic() - self._written_s > _EVERY_S:
                    self._write(f"{name}: {n_done}/{total}{f' ({n_failed} failed)' if n_failed else ''}")

        try:
            yield advance
        finally:
            with self._lock:
                self._write("")

    def _write(self, text: str) -> None:
        self._written_s = time.monotonic() if text else 0.0
        if not text and not self._width:
            return
        sys.stderr.write(f"\r{text:{self._width}}" if text else f"\r{'':{self._width}}\r")
        sys.stderr.flush()
        self._width = len(text)


def shown_progress(progress: bool | None) -> AbstractContextManager[None]:
    """Show the stages of the block. `progress` None: only in a terminal or a notebook."""
    is_shown = (sys.stderr.isatty() or _is_notebook()) if progress is None else progress
    return watched_by(LineProgress()) if is_shown else nullcontext()


def _is_notebook() -> bool:
    """Return whether IPython runs this code; if so, it is already imported."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
