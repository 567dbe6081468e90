"""How sure a mean is and how real a difference: intervals, tests and power, in numpy, seeded.

Values of one cluster (the same query asked by several users) are no independent evidence: they are drawn, and their
signs flipped, together. NaN stands for an unscored value; each column is about its scored values only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.text import query_key

N_RESAMPLES = 10_000
EXACT_UP_TO = 12
"""Clusters up to which the permutation test goes through all signs."""

_BLOCK_VALUES = 4_000_000
_FEWEST_FOR_BCA = 10
_NORMAL = NormalDist()

Values = npt.NDArray[np.float64]
Clusters = npt.NDArray[np.intp]


class Interval(NamedTuple):
    """A 95% interval, and how it was made: `percentile` where BCa can't be (see `intervals95`)."""

    low: float
    high: float
    method: Literal["bca", "percentile"]


def clusters_by(labels: Sequence[Hashable]) -> Clusters:
    """Cluster numbers of shape (n,): equal labels, equal numbers."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)


def query_clusters(queries: Sequence[str]) -> Clusters:
    """Clusters of the same query (`text.query_key`)."""
    return clusters_by([query_key(query) for query in queries])


def standard_error(values: Values, clusters: Clusters | None = None) -> float | None:
    """Standard error of the mean of `values` (n,); None under two clusters.

    Cluster-robust: the square root of C / (C - 1) times the sum of squared cluster sums of deviations, over n. Where
    no two values share a cluster that is s / sqrt(n), s over n - 1.
    """
    sums, sizes = _cluster_sums(_Columns.of(values[:, None], clusters))
    if len(sizes) < 2:
        return None
    deviations = sums[:, 0] - sizes * (sums[:, 0].sum() / sizes.sum())
    return float(math.sqrt((deviations**2).sum() * len(sizes) / (len(sizes) - 1)) / sizes.sum())


def intervals95(values: Values, clusters: Clusters | None = None, seed: int = 0) -> list[Interval | None]:
    """95% bootstrap interval of the mean of each column of `values` (n, m); None under two clusters.

    BCa (Efron 1987), its acceleration from the jackknife over clusters. The percentile interval (Efron & Tibshirani
    1993, ch. 13) where BCa says nothing: under 10 clusters, all means alike, or no resample on one side of the mean.
    Columns scored for the same rows share their resamples; memory does not grow with n.
    """
    found: list[Interval | None] = [None] * values.shape[1]
    for columns in _alike(values, clusters):
        sums, sizes = _cluster_sums(columns)
        if len(sizes) < 2:
            continue
        means = np.concatenate(list(_resampled_means(sums, sizes, seed)))
        for column, which in enumerate(columns.numbers):
            found[which] = _bca(means[:, column], sums[:, column], sizes)
    return found


def permutation_test(differences: Values, clusters: Clusters | None = None, seed: int = 0) -> list[float | None]:
    """Two-sided p of the mean of each column of paired `differences` (n, m) by flipping signs; None without values.

    Up to 12 clusters the share of all sign patterns whose mean is as far from 0; beyond, (b + 1) / (m + 1) of
    m = 10,000 random ones (Phipson & Smyth 2010).
    """
    found: list[float | None] = [None] * differences.shape[1]
    for columns in _alike(differences, clusters):
        sums, sizes = _cluster_sums(columns)
        if not len(sizes):
            continue
        observed = np.abs(sums.sum(axis=0))
        reached = observed - 1e-12 * np.abs(sums).sum(axis=0)  # a sum in another order is the same sum
        is_exact = len(sizes) <= EXACT_UP_TO
        patterns = _all_signs(len(sizes)) if is_exact else _random_signs(len(sizes), seed)
        n_patterns, n_as_far = 0, np.zeros(len(observed), dtype=np.int64)
        for signs in patterns:
            n_patterns += len(signs)
            n_as_far += (np.abs(signs @ sums) >= reached).sum(axis=0)
        p_values = n_as_far / n_patterns if is_exact else (n_as_far + 1) / (n_patterns + 1)
        for which, p_value in zip(columns.numbers, p_values.tolist(), strict=True):
            found[which] = p_value
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): reject those at or below .05, and at most .05 of the time any is false."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, which in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[which]))
        adjusted[which] = largest
    return adjusted


def detectable_difference(stderr: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that a two-sided test finds with this power, given the difference's standard error.

    (z of 1 - alpha / 2, plus z of the power) standard errors: the normal approximation, as in Cohen (1988).
    """
    return (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)) * stderr


def wilson95(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval (1927) of a share that was found in `n` independent draws, n above 0."""
    z2 = _NORMAL.inv_cdf(0.975) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share95(values: Values, clusters: Clusters | None = None) -> tuple[float, float]:
    """Wilson's 95% interval of the share of ones among zeros and ones (n,), n above 0.

    Of clusters for as many draws as they are worth (Korn & Graubard 1998): the variance of a single draw over that of
    the share, from the sums of the clusters, and no more than there are values; where all are the same, the number of
    clusters.
    """
    sums, sizes = _cluster_sums(_Columns.of(values[:, None], clusters))
    share = float(values.mean())
    of_one, of_share = share * (1 - share), float(((sums[:, 0] - sizes * share) ** 2).sum()) / len(values) ** 2
    if of_share:
        return wilson95(share, min(len(values), of_one / of_share))
    return wilson95(share, len(values) if of_one else len(sizes))


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two sequences of values of the same things; None where either has but one value."""
    signs = [np.sign(np.subtract.outer(np.asarray(each), np.asarray(each))) for each in (first, second)]
    scale = math.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum())
    return float((signs[0] * signs[1]).sum() / scale) if scale else None


class _Columns(NamedTuple):
    """Columns that are scored for the same rows: their `numbers`, the `values` of those rows, and their clusters."""

    numbers: list[int]
    values: Values
    clusters: Clusters | None

    @classmethod
    def of(cls, values: Values, clusters: Clusters | None, numbers: Sequence[int] = (0,)) -> _Columns:
        is_scored = ~np.isnan(values[:, numbers[0]])
        scored = values[is_scored][:, np.asarray(numbers)]
        return cls(list(numbers), scored, None if clusters is None else clusters[is_scored])


def _alike(values: Values, clusters: Clusters | None) -> Iterator[_Columns]:
    groups: dict[bytes, list[int]] = {}
    for number in range(values.shape[1]):
        groups.setdefault(np.isnan(values[:, number]).tobytes(), []).append(number)
    for numbers in groups.values():
        yield _Columns.of(values, clusters, numbers)


def _cluster_sums(columns: _Columns) -> tuple[Values, Values]:
    """Sums (C, m) and sizes (C,) of the clusters."""
    if columns.clusters is None:
        return columns.values, np.ones(len(columns.values))
    _, numbers, sizes = np.unique(columns.clusters, return_inverse=True, return_counts=True)
    if len(sizes) == len(columns.values):
        return columns.values, np.ones(len(columns.values))
    sums = np.zeros((len(sizes), columns.values.shape[1]))
    np.add.at(sums, numbers, columns.values)
    return sums, sizes.astype(np.float64)


def _blocks(n_clusters: int) -> Iterator[int]:
    """How many resamples to draw at a time, so that memory does not grow with the number of clusters."""
    block = max(1, min(N_RESAMPLES, _BLOCK_VALUES // n_clusters))
    for start in range(0, N_RESAMPLES, block):
        yield min(block, N_RESAMPLES - start)


def _resampled_means(sums: Values, sizes: Values, seed: int) -> Iterator[Values]:
    """Means (block, m) of clusters drawn with replacement: how often each is drawn, times its sum."""
    rng = np.random.default_rng(seed)
    n = len(sizes)
    for block in _blocks(n):
        drawn = rng.integers(0, n, size=(block, n))
        drawn += n * np.arange(block)[:, None]
        times = np.bincount(drawn.ravel(), minlength=block * n).reshape(block, n).astype(np.float64)
        yield (times @ sums) / (times @ sizes)[:, None]


def _all_signs(n: int) -> Iterator[Values]:
    """All 2^n patterns of signs, (2^n, n)."""
    yield 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)


def _random_signs(n: int, seed: int) -> Iterator[Values]:
    """Random patterns of signs, (block, n)."""
    rng = np.random.default_rng(seed)
    for block in _blocks(n):
        bits = np.unpackbits(rng.integers(0, 256, size=(block, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        yield 1 - 2 * bits.astype(np.float64)


def _bca(means: Values, sums: Values, sizes: Values) -> Interval:
    """BCa where it can be had, else percentile; of resampled `means` (R,) and one column's cluster `sums` (C,)."""
    levels = _bca_levels(means, sums, sizes) if len(sizes) >= _FEWEST_FOR_BCA else None
    low, high = np.percentile(means, [2.5, 97.5] if levels is None else levels)
    return Interval(float(low), float(high), "percentile" if levels is None else "bca")


def _bca_levels(means: Values, sums: Values, sizes: Values) -> tuple[float, float] | None:
    """The percentiles that take the place of 2.5 and 97.5 (Efron & Tibshirani 1993, eq. 14.10)."""
    mean = sums.sum() / sizes.sum()
    below = ((means < mean).mean() + (means <= mean).mean()) / 2
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)  # the jackknife: the mean without each cluster
    deviations = left_out.mean() - left_out
    spread = (deviations**2).sum()
    if not 0 < below < 1 or spread <= (1e-12 * max(1.0, abs(mean))) ** 2:
        return None
    acceleration = (deviations**3).sum() / (6 * spread**1.5)
    bias = _NORMAL.inv_cdf(below)
    levels = []
    for level in (0.025, 0.975):
        z = bias + _NORMAL.inv_cdf(level)
        if (scale := 1 - acceleration * z) <= 0:
            return None
        levels.append(100 * _NORMAL.cdf(bias + z / scale))
    return levels[0], levels[1]
