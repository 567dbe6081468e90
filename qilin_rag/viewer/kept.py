"""Keep what was read from files until they change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The values that were asked for last, each with the state that it was made from.

    Args:
        most: The number of values that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, tuple[Hashable, T]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, state: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made anew if the state is another one; two threads never make the same value.

        Args:
            key: Names the value.
            state: Of the files that the value is made from, taken before it is made.
            make: Makes the value.
        """
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                known = self._values.get(key)
                if known is not None and known[0] == state:
                    self._values.move_to_end(key)
                    return known[1]
            value = make()
            with self._lock:
                self._values[key] = (state, value)
                self._values.move_to_end(key)
                while len(self._values) > self._most:
                    self._values.popitem(last=False)
                if len(self._making) > 4 * self._most:
                    self._making = {name: lock for name, lock in self._making.items() if lock.locked()}
            return value
