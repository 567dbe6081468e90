"""The boundary to third-party code: every exception becomes one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from qilin_rag.core.errors import QilinError

logger = logging.getLogger(__name__)


@contextmanager
def third_party(name: str) -> Iterator[None]:
    """Turn any exception of a user's component into one line that names it; --verbose shows the traceback."""
    try:
        yield
    except QilinError:
        raise
    except Exception as error:
        logger.debug("%s failed", name, exc_info=True)
        raise QilinError(f"{name} failed: {type(error).__name__}: {error}") from error
