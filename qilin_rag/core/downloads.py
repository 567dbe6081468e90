"""Whether models and data may be downloaded: a dry run downloads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from qilin_rag.core.errors import UsageError

_forbidden: ContextVar[bool] = ContextVar("_forbidden", default=False)


class NotHereError(UsageError):
    """A model or data set is not on this machine, and would have to be downloaded first."""


@contextmanager
def no_downloads() -> Iterator[None]:
    """Have `refuse_download` raise within this."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


def is_forbidden() -> bool:
    """Tell whether nothing may be downloaded."""
    return _forbidden.get()


def refuse_download(what: str) -> None:
    """Raise NotHereError where nothing may be downloaded; `what` is named in it: `model 'x'`."""
    if _forbidden.get():
        raise NotHereError(f"{what} is not on this machine, a run would download it first")
