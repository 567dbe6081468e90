"""How far long work is: who does the work says so, and whoever watches is told; the command line draws bars of it.

Where nobody watches, the log says it every half a minute, so that what runs unattended can be followed too.
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
    """Says of a stage that more of it is done. May be called from any thread."""

    def __call__(self, n: int = 1, failed: bool = False) -> None:
        """`n` more; `failed`: they are done with, but in vain."""


class Watcher(Protocol):
    """Whom it is said to. Stages may stand in one another."""

    def stage(self, name: str, total: int, done: int) -> AbstractContextManager[Advance]:
        """A stage of `total` steps, from its beginning to its end; `done`: so many were done before."""
        ...


class _LogProgress:
    """Watches where nobody else does."""

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
    """All stages of what is done within this are said to `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def stage(name: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
    """A stage of `total` steps, `done` of which were done before; to be entered, and left at its end.

    Of one without steps nobody is told.
    """
    return (_watcher.get() if total else _LOG).stage(name, total, done)
