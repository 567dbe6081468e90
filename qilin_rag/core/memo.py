"""Remember the results of slow functions of arrays, by the hash of what the arrays hold."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

R = TypeVar("R")


class Memo(Generic[R]):
    """The latest results of a function, at most `most` of them.

    Args:
        most: The number of results to remember.

    Example:
        >>> memo = Memo[float](most=100)
        >>> key = memo.key(np.ones(3), 7)
        >>> memo.put(key, 3.0)
        >>> memo.get(memo.key(np.ones(3), 7)), memo.get(memo.key(np.zeros(3), 7))
        (3.0, None)
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._results: OrderedDict[bytes, R] = OrderedDict()

    @staticmethod
    def key(*arguments: npt.NDArray[Any] | Hashable) -> bytes:
        """Return the key of a result.

        Args:
            arguments: The arguments of the function: arrays, or values that are told apart by their `repr`.
        """
        digest = hashlib.sha256()
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                digest.update(repr((argument.shape, argument.dtype.str)).encode())
                digest.update(np.ascontiguousarray(argument).data)
            else:
                digest.update(repr(argument).encode())
        return digest.digest()

    def get(self, key: bytes) -> R | None:
        """Return the result under a key; None if it is not remembered.

        Args:
            key: The key.
        """
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def put(self, key: bytes, result: R) -> None:
        """Remember a result, and forget the one that was not asked for the longest if these are too many.

        Args:
            key: The key.
            result: The result.
        """
        with self._lock:
            self._results[key] = result
            self._results.move_to_end(key)
            if len(self._results) > self._most:
                self._results.popitem(last=False)
