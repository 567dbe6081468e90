"""Look-ups in sorted arrays."""

from __future__ import annotations

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
    positions = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1).astype(np.int64, copy=False)
    return np.where(ascending[positions] == wanted, positions, -1)
