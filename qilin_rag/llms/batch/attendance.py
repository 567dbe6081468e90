"""Count which workers can still do something, so that a batch is submitted when all of them wait for it.

Also bounds memory: few jobs make their prompts at a time, and none begins while too many bytes wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_HELD_BYTES = 256 * 2**20
"""The bytes of waiting requests above which no further job begins."""
_N_PREPARING = 64  # jobs that make their prompts at a time


class Attendance:
    """The workers of one event loop: how many there are, and how many of them wait."""

    def __init__(self, n_workers: int, act: Callable[[], None]) -> None:
        """Begin with workers that are all busy.

        Args:
            n_workers: The number of workers.
            act: A function that is called when all workers wait.
        """
        self._n_live, self._n_idle = n_workers, 0
        self._n_preparing = self._n_held = 0
        self._places: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._act = act
        self._is_scheduled = False

    def wait(self) -> None:
        """Count one more worker that waits."""
        self._n_idle += 1
        self.consider()

    def resume(self) -> None:
        """Count one less: it has got what it waited for."""
        self._n_idle -= 1

    def end(self) -> None:
        """Count one worker less: it has found no further job."""
        self._n_live -= 1
        self.consider()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a worker as waiting while the block lasts."""
        self.wait()
        try:
            yield
        finally:
            self.resume()

    def consider(self) -> None:
        """Act if all workers wait, when those that have just got something have had their turn."""
        if not self._is_scheduled and self._n_idle >= self._n_live:
            self._is_scheduled = True
            self._loop.call_soon(self._act_if_quiet)

    def _act_if_quiet(self) -> None:
        self._is_scheduled = False
        if self._n_idle >= self._n_live:
            self._act()

    async def take_place(self) -> None:
        """Wait for a place to make a prompt."""
        if not self._places and self._has_place:
            self._n_preparing += 1
            return
        place = self._loop.create_future()
        self._places.append(place)
        self.wait()
        await place

    def leave_place(self) -> None:
        """Give the place to the next."""
        self._n_preparing -= 1
        self._give_places()

    def hold(self, n_bytes: int) -> None:
        """Count bytes that wait; a negative number when they do no longer."""
        self._n_held += n_bytes
        if n_bytes < 0:
            self._give_places()

    @property
    def _has_place(self) -> bool:
        return self._n_preparing < _N_PREPARING and self._n_held < MOST_HELD_BYTES

    def _give_places(self) -> None:
        while self._places and self._has_place:
            place = self._places.popleft()
            if not place.done():
                self.resume()
                self._n_preparing += 1
                place.set_result(None)
