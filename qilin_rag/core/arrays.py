"""Look-ups in sorted arrays, and in arrays that hold many short ones; arrays in files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def positions_in(ascending: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the position of each wanted value in an ascending array, shape (n_wanted,).

    A value that occurs several times has its first position; one that does not occur has -1.

    >>> positions_in(np.array([2, 5, 9]), np.array([9, 3, 2, 10]))
    array([ 2, -1,  0, -1])
    """
    if not len(ascending):
        return np.full(len(wanted), -1, np.int64)
    positions = np.minimum(ascending.searchsorted(wanted), len(ascending) - 1).astype(np.int64, copy=False)
    return np.where(ascending[positions] == wanted, positions, -1)


def ranges(starts: npt.NDArray[np.integer], sizes: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the numbers from each start on, as many as its size, shape (sum of sizes,).

    >>> ranges(np.array([5, 0, 9]), np.array([2, 0, 3]))
    array([ 5,  6,  9, 10, 11])
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    before = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(sizes)]
    return np.repeat(starts - before, sizes) + np.arange(ends[-1] if len(ends) else 0)


def sorted_runs(*keys: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Sort rows by keys, the first of which counts most, and mark the first row of each run of equal ones: (m,) both.

    Rows with equal keys keep their order.

    >>> sorted_runs(np.array([1, 0, 1, 1]), np.array([7, 5, 3, 3]))
    (array([1, 2, 3, 0]), array([ True,  True, False,  True]))
    """
    order = np.lexsort(keys[::-1])
    is_first = np.ones(len(order), bool)
    is_first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return order, is_first


def save_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array under exactly this name, to which `numpy.save` would append .npy."""
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def array_bytes(values: npt.NDArray[Any]) -> bytes:
    """Return an array in NumPy's own form, which `array_of` reads; no Python object is pickled.

    >>> array_of(array_bytes(np.array([[1.5, np.nan]])))
    array([[1.5, nan]])
    """
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def array_of(content: bytes) -> npt.NDArray[Any]:
    """Return the array of `array_bytes`."""
    array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
