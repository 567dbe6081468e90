"""The boundary to code of others: whatever it raises becomes one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from qilin_rag.core.errors import QilinError

logger = logging.getLogger(__name__)


@contextmanager
def third_party(name: str) -> Iterator[None]:
    """Whatever a component of the user's own raises becomes one line that names it; --verbose shows where."""
    try:
        yield
    except QilinError:
        raise
    except Exception as error:
        logger.debug("%s failed", name, exc_info=True)
        raise QilinError(f"{name} failed: {type(error).__name__}: {error}") from error
