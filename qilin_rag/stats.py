"""How sure a mean is: standard error and bootstrap interval, in numpy, seeded."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

N_RESAMPLES = 10_000
_BLOCK_VALUES = 4_000_000


def standard_error(values: npt.NDArray[np.float64]) -> float | None:
    """Standard error of the mean, s / sqrt(n) with s over n - 1; None under two values."""
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def bootstrap_ci95(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float] | None:
    """95% percentile bootstrap interval of the mean (Efron & Tibshirani 1993, ch. 13); None under two values.

    Resamples are drawn in blocks, so memory does not grow with the number of values.
    """
    n = len(values)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    block = max(1, min(N_RESAMPLES, _BLOCK_VALUES // n))
    means = np.concatenate(
        [
            values[rng.integers(0, n, size=(min(block, N_RESAMPLES - start), n))].mean(axis=1)
            for start in range(0, N_RESAMPLES, block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
