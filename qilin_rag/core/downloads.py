"""Permission to download models and data: a dry run downloads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from qilin_rag.core.errors import UsageError

_forbidden: ContextVar[bool] = ContextVar("_forbidden", default=False)


class NotHereError(UsageError):
    """A model or data set is not on this machine and would have to be downloaded first."""


@contextmanager
def no_downloads() -> Iterator[None]:
    """Make `refuse_download` raise inside this context."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


def is_forbidden() -> bool:
    """Return whether downloads are forbidden."""
    return _forbidden.get()


def refuse_download(what: str) -> None:
    """Raise NotHereError if downloads are forbidden; the error names `what`, such as `model 'x'`."""
    if _forbidden.get():
        raise NotHereError(f"{what} is not on this machine, a run would download it first")
