"""Stop when every call is refused for the same reason: the calls that are left would be refused, too."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import read_lines
from qilin_rag.core.types import Exchange

SAME_REFUSALS = 8
"""So many calls that are refused for one reason end a run in which no reply has come."""
_VARYING = re.compile(r"\b[0-9a-f]{8}[0-9a-f-]*\b|[\w-]*\d[\w-]*")


class SameRefusals:
    """Counts the reasons of the calls that are refused, until the first reply.

    Once `SAME_REFUSALS` are alike no call begins until those under way have ended: refusals are quick, replies slow.
    """

    def __init__(self, path: Path) -> None:
        """Nothing has come back yet; `path` has the lines of earlier sessions."""
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
        """Count the line of a call that has ended.

        Raises:
            QilinError: If `SAME_REFUSALS` were alike, none is under way, and no reply has ever come.
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
                "the others are not made; what is done is kept, and the same command goes on"
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
        """Whether an earlier session had an answer: then these are prompts that it could not get one for."""
        asker = getattr(line, "judge", None)
        lines = read_lines(self._path, type(line), half_line_ok=True)
        return any(each.is_answered and not each.cached and getattr(each, "judge", None) == asker for each in lines)


def without_numbers(reason: str) -> str:
    """A reason without what differs from call to call: ids of requests, and numbers of tokens.

    >>> without_numbers("1281 tokens are too many (request id: req_8f3a)")
    '# tokens are too many (request id: #)'
    """
    return _VARYING.sub("#", reason)
