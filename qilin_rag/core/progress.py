"""Progress of long work: code reports its stages, and a watcher (such as the command line's bars) receives them.

Without a watcher, the log shows the progress every 30 seconds, so that unattended work can be followed too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

logger = logging.getLogger(__name__)
_LOG_EVERY_S = 30.0


class Advance(Protocol):
    """A callback that reports progress in a stage. It may be called from any thread."""

    def __call__(self, n: int = 1, failed: bool = False) -> None:
        """Report that `n` more steps are done; `failed` says that they failed."""


class Watcher(Protocol):
    """A receiver of progress. Stages may be nested."""

    def stage(self, name: str, total: int, done: int) -> AbstractContextManager[Advance]:
        """Enter a stage of `total` steps, `done` of which were done before."""
        ...


class _LogProgress:
    """Reports progress to the log if there is no other watcher."""

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Advance]:
        lock = threading.Lock()
        n_done, n_failed, logged = done, 0, time.monotonic()

        def advance(n: int = 1, failed: bool = False) -> None:
            nonlocal n_done, n_failed, logged
            with lock:
                n_done += n
                n_failed += n * failed
                if time.monotonic() - logged > _LOG_EVERY_S:
                    logged = time.monotonic()
                    logger.info("%s: %d of %d%s", name, n_done, total, f" ({n_failed} failed)" if n_failed else "")

        yield advance


_LOG = _LogProgress()
_watcher: ContextVar[Watcher] = ContextVar("watcher", default=_LOG)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Report all stages inside this context to `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def stage(name: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
    """Return the context of a stage of `total` steps, `done` of which were done before.

    A stage without steps is not reported.
    """
    return (_watcher.get() if total else _LOG).stage(name, total, done)
