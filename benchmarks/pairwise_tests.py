"""Intervals of 20 runs over 2,932 questions and the tests of all 190 pairs; beside it scipy on one run and one pair.

Made up figures, a tenth of them unscored in one run. scipy draws as many resamples; its time for all is one interval's
times 20 and one test's times 190.

usage: python benchmarks/pairwise_tests.py
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from qilin_rag.core.stats import N_RESAMPLES, intervals95, permutation_test

N_RUNS, N_QUESTIONS = 20, 2_932


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print both."""
    rng = np.random.default_rng(0)
    values = rng.beta(2, 5, (N_QUESTIONS, N_RUNS))
    values[rng.random(N_QUESTIONS) < 0.1, 3] = np.nan
    pairs = list(itertools.combinations(range(N_RUNS), 2))
    differences = np.stack([values[:, a] - values[:, b] for a, b in pairs], axis=1)
    interval_s = seconds(lambda: intervals95(values))
    test_s = seconds(lambda: permutation_test(differences))
    whole = values[:, 0]
    theirs_interval_s = N_RUNS * seconds(
        lambda: scipy.stats.bootstrap((whole,), np.mean, n_resamples=N_RESAMPLES, method="BCa", batch=500)
    )
    theirs_test_s = len(pairs) * seconds(
        lambda: scipy.stats.permutation_test(
            (values[:, 0], values[:, 1]),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            n_resamples=N_RESAMPLES,
            vectorized=True,
            batch=500,
        )
    )
    print(f"{N_RUNS} runs x {N_QUESTIONS} questions, {N_RESAMPLES} resamples")
    print(f"{N_RUNS} intervals  {interval_s:6.1f} s   {theirs_interval_s / interval_s:5.0f} times as fast as scipy's")
    print(f"{len(pairs)} tests     {test_s:6.1f} s   {theirs_test_s / test_s:5.0f} times as fast as scipy's")
    print(f"together      {interval_s + test_s:6.1f} s")


if __name__ == "__main__":
    main()
