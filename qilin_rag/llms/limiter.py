"""The limit of concurrent calls, learnt from the server's refusals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class AdaptiveLimit:
    """A limit of concurrent calls: none until the server refuses a call for its rate, then half of the current number.

    The limit then grows by one per round: additive increase, multiplicative decrease (Chiu and Jain 1989), as in TCP.
    For one event loop.
    """

    def __init__(self) -> None:
        """Start without a limit."""
        self._limit = math.inf
        self._n_under_way = 0
        self._round = 0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> float:
        """Return the most concurrent calls."""
        return self._limit

    @property
    def _n_free(self) -> int:
        """Return the number of free places; negative after the limit was lowered below the calls in progress."""
        return max(1, int(min(self._limit, 1e9))) - self._n_under_way

    @asynccontextmanager
    async def call(self) -> AsyncIterator[int]:
        """Wait for a place and hold it; the value is the argument of `slow_down`."""
        async with self._changed:
            try:
                await self._changed.wait_for(lambda: self._n_free > 0)
            except asyncio.CancelledError:
                self._changed.notify(self._n_free)  # a cancelled call may have taken the notice of a free place
                raise
            self._n_under_way += 1
        try:
            yield self._round
        finally:
            self._n_under_way -= 1
            async with self._changed:
                self._changed.notify(self._n_free)

    def slow_down(self, begun_in: int) -> None:
        """Halve the limit after a refused call, once for all calls of the same round."""
        if begun_in == self._round:
            self._limit = max(1.0, self._n_under_way / 2)
            self._round += 1

    def speed_up(self) -> None:
        """Count a success; add one place after as many successes as there are places."""
        if self._limit < math.inf:
            self._limit += 1 / self._limit
