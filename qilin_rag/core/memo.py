"""Remember the results of slow functions of arrays, by the hash of what the arrays hold.

Within a `kept_figures` block, results are kept on disk as well, so that another process finds them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from qilin_rag.core.figure_store import current_store, figure_key

R = TypeVar("R")


class PackedForm(NamedTuple, Generic[R]):
    """The form of results on disk: the name of their function, and how a result becomes bytes and comes back."""

    name: str
    pack: Callable[[R], bytes]
    unpack: Callable[[bytes], R]


class Memo(Generic[R]):
    """The latest results of a function, at most `most` of them.

    Args:
        most: The number of results to remember.
        form: The form in which they are kept on disk, too; None keeps none.

    Example:
        >>> memo = Memo[float](most=100)
        >>> ones, zeros = memo.key(np.ones(3), 7), memo.key(np.zeros(3), 7)
        >>> memo.put({ones: 3.0})
        >>> memo.get([ones, zeros]) == {ones: 3.0}
        True
    """

    def __init__(self, most: int, form: PackedForm[R] | None = None) -> None:
        self._most, self._form, self._lock = most, form, threading.Lock()
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

    def get(self, keys: Iterable[bytes]) -> dict[bytes, R]:
        """Return the known results among these keys.

        Args:
            keys: The keys.
        """
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            known = {key: self._results[key] for key in wanted if key in self._results}
        store = current_store()
        if self._form and store and len(known) < len(wanted):
            places = {figure_key(self._form.name, key): key for key in wanted if key not in known}
            known |= {places[place]: self._form.unpack(packed) for place, packed in store.get(places).items()}
        self._remember(known)
        return known

    def put(self, results: Mapping[bytes, R]) -> None:
        """Remember results, and forget those that were not asked for the longest if these are too many.

        Args:
            results: The results by their keys.
        """
        self._remember(results)
        if self._form and results and (store := current_store()):
            form = self._form
            store.put({figure_key(form.name, key): form.pack(result) for key, result in results.items()})

    def _remember(self, results: Mapping[bytes, R]) -> None:
        with self._lock:
            for key, result in results.items():
                self._results[key] = result
                self._results.move_to_end(key)
            while len(self._results) > self._most:
                self._results.popitem(last=False)
