"""Stop of a run whose calls are all refused for the same reason: the remaining calls would be refused, too."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import read_lines
from qilin_rag.core.types import Exchange

SAME_REFUSALS = 8
"""The number of calls refused for one reason that ends a run without any reply."""
_VARYING = re.compile(r"\b[0-9a-f]{8}[0-9a-f-]*\b|[\w-]*\d[\w-]*")


class SameRefusals:
    """Counts the reasons of refused calls until the first reply.

    Once `SAME_REFUSALS` reasons are alike, no call begins until the current ones have ended: refusals are quick,
    replies slow.
    """

    def __init__(self, path: Path) -> None:
        """Start before the first reply; `path` has the lines of earlier sessions."""
        self._path = path
        self._counts: Counter[str] = Counter()
        self._has_reply = False
        self._n_under_way = 0
        self._suspected: str | None = None
        self._may_begin = asyncio.Event()
        self._may_begin.set()

    async def begin(self) -> None:
        """Wait until a call may begin."""
        await self._may_begin.wait()
        self._n_under_way += 1

    def end(self, line: Exchange, is_refused: bool) -> None:
        """Count the line of a finished call.

        Raises:
            QilinError: if `SAME_REFUSALS` reasons were alike, no call is in progress, and there was never a reply.
        """
        self._n_under_way -= 1
        if not self._has_reply and not line.cached:
            self._count(line, is_refused)
        if self._suspected is None:
            return
        if self._has_reply:
            self._suspected = None
            self._may_begin.set()
        elif not self._n_under_way:
            raise QilinError(
                f"no call was answered, and {max(self._counts.values())} failed for one reason: {self._suspected}; "
                "the other calls are not made; results so far are kept, and the same command resumes"
            )

    def _count(self, line: Exchange, is_refused: bool) -> None:
        if not is_refused:
            self._has_reply = line.status != "failed"
            return
        reason = line.error or ""
        self._counts[without_numbers(reason)] += 1
        if self._suspected is None and self._counts[without_numbers(reason)] >= SAME_REFUSALS:
            self._has_reply = self._had_reply(line)
            if not self._has_reply:
                self._suspected = reason
                self._may_begin.clear()

    def _had_reply(self, line: Exchange) -> bool:
        """Return whether an earlier session had an answer, so that only these prompts are refused."""
        asker = getattr(line, "judge", None)
        lines = read_lines(self._path, type(line), half_line_ok=True)
        return any(each.is_answered and not each.cached and getattr(each, "judge", None) == asker for each in lines)


def without_numbers(reason: str) -> str:
    """Return a reason without the parts that differ between calls: request ids and numbers of tokens.

    >>> without_numbers("1281 tokens are too many (request id: req_8f3a)")
    '# tokens are too many (request id: #)'
    """
    return _VARYING.sub("#", reason)
