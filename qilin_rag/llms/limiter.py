"""How many calls may be under way at once, learnt from the server's refusals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class AdaptiveLimit:
    """No limit until the server refuses a call for its rate: then half of what was under way, and one more a round.

    Additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP has it. For one event loop.
    """

    def __init__(self) -> None:
        """Nothing is known of the server yet."""
        self._limit = math.inf
        self._n_under_way = 0
        self._round = 0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> float:
        """Calls that may be under way at once."""
        return self._limit

    @property
    def _n_free(self) -> int:
        """Places that are free; below 0 where the limit was lowered under more calls."""
        return max(1, int(min(self._limit, 1e9))) - self._n_under_way

    @asynccontextmanager
    async def call(self) -> AsyncIterator[int]:
        """Wait for a place, and hold it; the value is what `slow_down` wants to know."""
        async with self._changed:
            try:
                await self._changed.wait_for(lambda: self._n_free > 0)
            except asyncio.CancelledError:
                self._changed.notify(self._n_free)  # it may have been this one that was told of a free place
                raise
            self._n_under_way += 1
        try:
            yield self._round
        finally:
            self._n_under_way -= 1
            async with self._changed:
                self._changed.notify(self._n_free)

    def slow_down(self, begun_in: int) -> None:
        """A call was refused: halve the limit, once for all the calls that were under way together."""
        if begun_in == self._round:
            self._limit = max(1.0, self._n_under_way / 2)
            self._round += 1

    def speed_up(self) -> None:
        """A call succeeded: one more place once as many have succeeded as there are places."""
        if self._limit < math.inf:
            self._limit += 1 / self._limit
