"""Uncertainty of means and differences: one test, the interval that inverts it, and its power; all seeded.

Values of one cluster (the same query asked by several users) are not independent evidence: their signs are flipped
together. NaN marks an unscored value; each column uses its scored values only.

**The test** flips the signs of the cluster sums. It is exact if differences lie symmetrically around their mean,
however many of them are 0. Its statistic is Hall's transformation of t (1992), which takes the skewness of the data
into account, so that the test holds its level on skewed data, too. **The interval** holds the values that the test does
not reject at .05: the two are one procedure and can't contradict each other.

`benchmarks/interval_coverage.py` simulates how often both are right; the constants below were chosen by it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import cache
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import array_bytes, array_of
from qilin_rag.core.memo import Memo, PackedForm
from qilin_rag.core.text import query_key

ALPHA = 0.05
N_RESAMPLES = 10_000
EXACT_UP_TO = 12
"""Most clusters for which a test goes through all patterns of signs."""
FEWEST_FOR_INTERVAL = 20
"""Fewest clusters for an interval: from here on, simulated coverage is 92 to 98%."""
FEWEST_WORTH = 15
"""Fewest equal clusters that unequal clusters must be worth for an interval."""
FEWEST_INFORMATIVE = 6
"""Fewest clusters that differ from the others for an interval: with five, p can't reach .05."""
FEWEST_DETECTABLE = 10
"""Fewest clusters for a detectable difference."""
_SKEW_DENSE, _SKEW_SPARSE = 1.45, 0.3
_BLOCK_VALUES = 4_000_000
_CHUNK_COLUMNS = 64
_EQUAL, _ROUNDING = 1e-9, 1e-12
_NEARLY_EQUAL = 1e-3
"""The share of the largest figure below which a difference is too small to be taken of sums of figures."""
_HALVINGS = 10
_NORMAL = NormalDist()
Values = npt.NDArray[np.float64]
Clusters = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """A 95% interval and its method: `sign-flip` (inverts this module's test) or `wilson` (Wilson's, of a share)."""

    low: float
    high: float
    method: Literal["sign-flip", "wilson"]


class Bounds(NamedTuple):
    """The 95% interval of a mean, or the reason why it has none."""

    interval: Interval | None
    no_interval: str | None = None


class PairedTest(NamedTuple):
    """The test of a mean difference: p of no difference (None without values), and the 95% interval.

    The interval excludes 0 if and only if p is at most .05. If there is no interval, `no_interval` gives the reason.
    """

    p: float | None
    interval: Interval | None
    no_interval: str | None = None


def _test_of(packed: bytes) -> PairedTest:
    p, interval, no_interval = json.loads(packed)
    return PairedTest(p, Interval(*interval) if interval else None, no_interval)


_TESTS = Memo(20_000, PackedForm("paired test", lambda test: json.dumps(test).encode(), _test_of))
_FAMILIES = Memo(500, PackedForm("family", array_bytes, array_of))


def clusters_by(labels: Sequence[Hashable]) -> Clusters:
    """Return cluster numbers, shape (n,): equal labels have equal numbers."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)


def query_clusters(queries: Sequence[str]) -> Clusters:
    """Return clusters of the same query (`text.query_key`), shape (n,)."""
    return clusters_by([query_key(query) for query in queries])


def standard_error(values: Values, clusters: Clusters | None = None) -> float | None:
    """Return the standard error of the mean of `values` (n,); None for fewer than two clusters.

    The error is cluster-robust: the square root of C / (C - 1) times the sum of squared cluster sums of deviations,
    over n. If no two values share a cluster, this is s / sqrt(n), with s over n - 1.
    """
    sums, sizes = _cluster_sums(_Columns.of(values[:, None], clusters))
    if len(sizes) < 2:
        return None
    deviations = sums[:, 0] - sizes * (sums[:, 0].sum() / sizes.sum())
    return float(math.sqrt((deviations**2).sum() * len(sizes) / (len(sizes) - 1)) / sizes.sum())


def paired_tests(differences: Values, clusters: Clusters | None = None, seed: int = 0) -> list[PairedTest]:
    """Test each column of paired differences (n, m) against 0 by flipping signs, and compute its 95% interval.

    Up to 12 clusters, p is the share of all sign patterns whose mean is as far from 0 as that of the data. For more
    clusters, p is (b + 1) / (R + 1) of R = 10,000 random patterns (Phipson & Smyth 2010). Patterns exactly as far as
    the data count half (mid-p), so that p has no jump at 0; patterns that differ from the data in zeros only count
    fully. An interval needs 20 clusters, of sizes that are worth 15 equal ones, and six that differ from the others.
    Columns scored for the same rows share their signs.

    Args:
        differences: One column per comparison, NaN for unscored values.
        clusters: The cluster number of each row; None means that each row is its own cluster.
        seed: The seed of the random signs.
    """
    of_clusters = _TESTS.key(clusters, seed)
    keys = [_TESTS.key(column, of_clusters) for column in differences.T]
    found = _TESTS.get(keys)
    new = {key: number for number, key in enumerate(keys) if key not in found}
    made = dict(zip(new, _paired_tests(differences[:, list(new.values())], clusters, seed), strict=True))
    _TESTS.put(made)
    found |= made
    return [found[key] for key in keys]


def _paired_tests(differences: Values, clusters: Clusters | None, seed: int) -> list[PairedTest]:
    tests = [PairedTest(None, None, "nothing is scored")] * differences.shape[1]
    for numbers, sums, sizes in _sums_alike(differences, clusters):
        for which, test in zip(numbers, _tests(sums, sizes, seed), strict=True):
            tests[which] = test
    return tests


def _sums_alike(differences: Values, clusters: Clusters | None) -> Iterator[tuple[Sequence[int], Values, Values]]:
    """Yield the numbers of columns scored for the same rows, with their cluster sums (C, m) and sizes (C,)."""
    for columns in _alike(differences, clusters):
        sums, sizes = _cluster_sums(columns)
        if not len(sizes):
            continue
        for start in range(0, len(columns.numbers), _CHUNK_COLUMNS):
            chunk = slice(start, start + _CHUNK_COLUMNS)
            yield columns.numbers[chunk], sums[:, chunk], sizes


def permutation_test(differences: Values, clusters: Clusters | None = None, seed: int = 0) -> list[float | None]:
    """Return the two-sided p of `paired_tests` for the mean of each column of `differences` (n, m), without intervals.

    Args:
        differences: One column per comparison, NaN for unscored values.
        clusters: The cluster number of each row; None means that each row is its own cluster.
        seed: The seed of the random signs.
    """
    found: list[float | None] = [None] * differences.shape[1]
    for numbers, sums, sizes in _sums_alike(differences, clusters):
        for which, p in zip(numbers, _p_values(sums, _skew_weights(sums, sizes), seed).tolist(), strict=True):
            found[which] = p
    return found


def intervals95(values: Values, clusters: Clusters | None = None, seed: int = 0) -> list[Interval | None]:
    """Return the 95% interval of `paired_tests` for the mean of each column of `values` (n, m)."""
    return [test.interval for test in paired_tests(values, clusters, seed)]


def mean_bounds(
    values: Values, clusters: Clusters | None = None, seed: int = 0, unbounded: Collection[int] = ()
) -> list[Bounds]:
    """Return the 95% interval of the mean of each column of figures (n, m), or the reason why it has none.

    The interval is Wilson's (see `share95`) if all values are 0 or 1, else that of `paired_tests`. Among figures
    between 0 and 1, zeros and ones vary most, so that Wilson's interval also holds for a figure like ROUGE that is 0
    everywhere. It does not hold for `unbounded` columns, which can exceed 1.
    """
    is_binary = (np.isnan(values) | (values == 0) | (values == 1)).all(axis=0) & ~np.isnan(values).all(axis=0)
    is_binary[list(unbounded)] = False
    bounds = [Bounds(None)] * values.shape[1]
    for column in np.flatnonzero(is_binary):
        scored = _Columns.of(values, clusters, [int(column)])
        ends = share95(scored.values[:, 0], scored.clusters)
        why = None if ends else f"too few: queries worth under {FEWEST_INFORMATIVE} equal ones"
        bounds[column] = Bounds(Interval(*ends, "wilson") if ends else None, why)
    not_binary = np.flatnonzero(~is_binary)
    for column, test in zip(not_binary, paired_tests(values[:, not_binary], clusters, seed), strict=True):
        bounds[column] = Bounds(test.interval, test.no_interval)
    return bounds


def compare_all(values: Values, clusters: Clusters | None = None, seed: int = 0) -> Values:
    """Return the adjusted p of all pairs of columns of `values` (n, k), shape (k, k); NaN without shared rows.

    Step-down max-T (Westfall & Young 1993) over the test of `paired_tests`, with equal signs for all pairs. The chance
    that any pair of systems without a difference has an adjusted p of at most .05 is at most .05. This holds whichever
    other systems differ, and however the pair was chosen. The result is symmetric.
    """
    [adjusted] = compare_families([values], clusters, seed)
    return adjusted


def compare_families(families: Sequence[Values], clusters: Clusters | None = None, seed: int = 0) -> list[Values]:
    """Return the adjusted p of all pairs of each family as `compare_all` does; it takes less time for all at once.

    Args:
        families: The columns of each family, of shape (n, k).
        clusters: The cluster number of each row; None means that each row is its own cluster.
        seed: The seed of the random signs.
    """
    keys = [_FAMILIES.key(values, clusters, seed) for values in families]
    found = _FAMILIES.get(keys)
    new = {key: _Pairs(values, clusters) for key, values in zip(keys, families, strict=True) if key not in found}
    alike: dict[int, list[_Pairs]] = {}
    for pairs in new.values():
        alike.setdefault(pairs.n_clusters, []).append(pairs)
    for n, of_one_size in alike.items():
        for signs in sign_patterns(n, seed) if n else ():
            for pairs in of_one_size:
                pairs.count(signs)
    made = {key: pairs.adjusted() for key, pairs in new.items()}
    _FAMILIES.put(made)
    found |= made
    return [found[key].copy() for key in keys]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979): rejecting those up to .05 makes an error in at most 5% of cases."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, which in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[which]))
        adjusted[which] = largest
    return adjusted


def detectable_difference(stderr: float, n: int, power: float = 0.8, alpha: float = ALPHA) -> float | None:
    """Return the smallest true difference that the test finds with this power.

    The power is that of the t test of n values at the level that the test can have. A margin of 4 / 3n (3 / 4n up to 12
    clusters) covers the estimation error of the standard error and of the skewness.

    Args:
        stderr: The standard error of the mean difference.
        n: The number of clusters, as the number of equal clusters that they are worth.
        power: The share of cases in which the test finds the difference.
        alpha: The level of the test.

    Returns:
        None for fewer than ten clusters: five or fewer can show nothing, and six to nine give no reliable figure.
    """
    if n < FEWEST_DETECTABLE:
        return None
    return _noncentrality(n, power, alpha) * stderr


def why_undetectable(differences: Values, clusters: Clusters | None = None) -> str | None:
    """Return why the detectable difference of paired differences (n,), without NaN, is unknown; None if it is known.

    With fewer than six clusters, or fewer than six that differ, p can't reach .05, so that nothing can be shown.
    """
    sums, sizes = _cluster_sums(_Columns.of(differences[:, None], clusters))
    n, n_unlike_0 = len(sizes), int((np.abs(sums) > _EQUAL * np.abs(sums).max(initial=0.0)).sum())
    if n < FEWEST_INFORMATIVE:
        return f"nothing can be shown by {n}, {FEWEST_INFORMATIVE} are needed"
    if n_unlike_0 < FEWEST_INFORMATIVE:
        return f"nothing can be shown: {n_unlike_0} of {n} differ, {FEWEST_INFORMATIVE} are needed"
    if n < FEWEST_DETECTABLE:
        return f"{n} are too few to say what they could show, {FEWEST_DETECTABLE} are needed"
    if (worth := worth_of(sizes)) < FEWEST_DETECTABLE:
        return f"{n} are worth {worth:.1f} equal ones, too few to say what they could show"
    return None


def wilson95(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95% interval (1927) of a share found in `n` independent draws, n above 0."""
    z2 = _NORMAL.inv_cdf(0.975) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share95(values: Values, clusters: Clusters | None = None) -> tuple[float, float] | None:
    """Return Wilson's 95% interval of the share of ones among zeros and ones (n,), n above 0.

    For clusters, n is the number of independent draws that they are worth, corrected for few clusters by the quantile
    of t (Korn & Graubard 1998). This number is the variance of a single draw over that of the share, estimated from the
    cluster sums, and at most the number of values. If all clusters have one share, it is the number of equal clusters
    that they are worth. Copies of a value are one draw.

    Returns:
        None if clusters of several values are worth fewer than six equal ones.
    """
    sums, sizes = _cluster_sums(_Columns.of(values[:, None], clusters))
    share = float(values.mean())
    if len(sizes) == len(values):
        return wilson95(share, len(values))
    if (worth := worth_of(sizes)) < FEWEST_INFORMATIVE:
        return None
    if worth == len(sizes) and np.isin(sums[:, 0] / sizes, (0, 1)).all():
        return wilson95(share, len(sizes))
    of_one, of_share = share * (1 - share), float(((sums[:, 0] - sizes * share) ** 2).sum()) / len(values) ** 2
    n_draws = min(len(values), of_one / of_share) if of_share > _ROUNDING * of_one else worth
    few = _NORMAL.inv_cdf(1 - ALPHA / 2) / _t_critical(worth, ALPHA)
    return wilson95(share, n_draws * few**2)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two paired sequences of values; None if either has one distinct value only."""
    x, y = (np.asarray(values, dtype=np.float64) for values in (first, second))
    both, of_first, of_second = 0.0, 0.0, 0.0
    block = max(1, _BLOCK_VALUES // max(1, len(x)))
    for rows in (slice(start, start + block) for start in range(0, len(x), block)):
        signs = np.sign(x[rows, None] - x), np.sign(y[rows, None] - y)
        both += (signs[0] * signs[1]).sum()
        of_first, of_second = of_first + np.abs(signs[0]).sum(), of_second + np.abs(signs[1]).sum()
    return float(both / math.sqrt(of_first * of_second)) if of_first * of_second else None


class _Columns(NamedTuple):
    """Columns scored for the same rows: their `numbers`, the `values` of those rows, and their clusters."""

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
    """Return the sums (C, m) and sizes (C,) of the clusters."""
    numbers, n = _numbered(columns.clusters, np.ones(len(columns.values), dtype=bool))
    return _add_up(columns.values, numbers, n), _add_up(np.ones((len(columns.values), 1)), numbers, n)[:, 0]


def _numbered(clusters: Clusters | None, rows: Booleans) -> tuple[Clusters, int]:
    """Return the clusters of these rows, numbered from 0, and their number."""
    if clusters is None:
        return np.arange(int(rows.sum())), int(rows.sum())
    found, numbers = np.unique(clusters[rows], return_inverse=True)
    return numbers, len(found)


def _add_up(values: Values, numbers: Clusters, n: int) -> Values:
    """Return the sums (n, m) of the rows of `values` by cluster; the rows themselves if each is its own cluster."""
    if n == len(values):
        return values
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, numbers, values)
    return sums


def sign_patterns(n: int, seed: int) -> Iterator[Values]:
    """Yield sign patterns for n clusters in blocks (block, n): all of them up to 12 clusters, else random ones."""
    if n <= EXACT_UP_TO:
        yield 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)
        return
    rng = np.random.default_rng(seed)
    block = max(1, min(N_RESAMPLES, _BLOCK_VALUES // n))
    for start in range(0, N_RESAMPLES, block):
        size = (min(block, N_RESAMPLES - start), -(-n // 8))
        yield 1 - 2 * np.unpackbits(rng.integers(0, 256, size, dtype=np.uint8), axis=1, count=n).astype(np.float64)


def _flipped(sums: Values, seed: int) -> Values:
    """Return the sums of the rows of `sums` (n, m) under each sign pattern, shape (patterns, m)."""
    return np.concatenate([signs @ sums for signs in sign_patterns(len(sums), seed)])


def _is_informative(sums: Values, sizes: Values) -> Booleans:
    """Return which clusters (C, m) have another mean than the commonest one, if two or more share that."""
    means = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=np.broadcast_to(sizes, sums.shape) > 0)
    scale = np.nanmax(np.abs(means), axis=0)
    means = np.round(means / np.where(scale > 0, scale, 1.0), 10)
    mask = ~np.isnan(means)
    for column in range(means.shape[1]):
        values, counts = np.unique(means[mask[:, column], column], return_counts=True)
        if counts.max() > 1:
            mask[:, column] &= means[:, column] != values[counts.argmax()]
    return np.asarray(mask)


def _skew_weights(sums: Values, sizes: Values) -> Values:
    """Return the weight of the skewness, shape (m,): 0 up to 12 clusters, for which the test is that of the mean.

    The weight is above 1 if no value repeats, since a small sample understates skewness. It is below 1 if nearly all
    values are equal, since the few others exaggerate skewness.
    """
    if len(sums) <= EXACT_UP_TO:
        return np.zeros(sums.shape[1])
    sizes = np.broadcast_to(sizes.reshape(len(sums), -1), sums.shape)
    share: Values = _is_informative(sums, sizes).sum(axis=0) / (sizes > 0).sum(axis=0)
    return _SKEW_SPARSE + _SKEW_DENSE * share


def _hall_t(first: Values, second: Values, third: Values, n: Values | int, skew: Values) -> Values:
    """Return Hall's transformation of t (1992) from the sums of first, second and third powers of `n` values."""
    mean = first / n
    variance = np.maximum(second / n - mean * mean, np.where(second > 0, 1e-12 * second / n, 1.0))
    deviation = np.sqrt(variance)
    t = np.sqrt(n - 1) * mean / deviation
    a = skew / np.sqrt(n) * ((third - 3 * mean * second) / n + 2 * mean * mean * mean) / (variance * deviation)
    skewed_t = a * t
    transformed: Values = t * (1 + skewed_t * (1 / 3 + skewed_t / 27)) + a / 6
    return transformed


def _scaled(sums: Values) -> Values:
    """Return the columns divided by their largest value; differences from 0 by rounding alone become 0."""
    largest = np.abs(sums).max(axis=0)
    scaled = sums / np.where(largest > 0, largest, 1.0)
    return np.where(np.abs(scaled) < _ROUNDING, 0.0, scaled)


def _share_as_far(flipped: Values, observed: Values, n_unlike_0: Values, is_exact: bool) -> Values:
    """Return p: the share of patterns whose statistic is as far from 0 as that of the data, by column."""
    n_as_far, n_further = _count_as_far(flipped, observed)
    return _p_of_counts(n_as_far, n_further, len(flipped), n_unlike_0, is_exact)


def _count_as_far(flipped: Values, observed: Values) -> tuple[Values, Values]:
    """Return how many patterns are as far from 0 as the data, and how many are further, by column."""
    slack = _EQUAL * (1 + observed)
    return (flipped >= observed - slack).sum(axis=0), (flipped > observed + slack).sum(axis=0)


def _p_of_counts(n_as_far: Values, n_further: Values, n: int, n_unlike_0: Values, is_exact: bool) -> Values:
    """Return p from the numbers of patterns, of `n`, that are as far as the data and further, by column."""
    if is_exact:
        share: Values = n_as_far / n
        return share
    same_but_for_zeros = 0.5 ** np.maximum(n_unlike_0, 1)
    p = ((n_further + n_as_far) / 2 + 1) / (n + 1) + same_but_for_zeros
    return np.where(n_unlike_0 > 0, np.minimum(p, 1.0), 1.0)


def _p_values(sums: Values, skew: Values, seed: int) -> Values:
    """Return the p of each column of cluster `sums` (C, m)."""
    n, p_values = len(sums), []
    for start in range(0, sums.shape[1], _CHUNK_COLUMNS):
        chunk = slice(start, start + _CHUNK_COLUMNS)
        values, weights = _scaled(sums[:, chunk]), skew[chunk]
        squares, m = (values**2).sum(axis=0), values.shape[1]
        of_data = _hall_t(values.sum(axis=0), squares, (values**3).sum(axis=0), n, weights)
        flipped = _flipped(np.concatenate([values, values**3], axis=1), seed)
        of_flipped = _hall_t(flipped[:, :m], squares, flipped[:, m:], n, weights)
        p_values.append(_share_as_far(np.abs(of_flipped), np.abs(of_data), (values != 0).sum(axis=0), n <= EXACT_UP_TO))
    return np.concatenate(p_values)


class _Pairs:
    """The pairs of a family, from the least to the most extreme: how many sign patterns are as far as each.

    The differences of all pairs would fill gigabytes, so those of a few pairs at a time are made when needed.
    """

    def __init__(self, values: Values, clusters: Clusters | None) -> None:
        is_scored = ~np.isnan(values)
        rows = is_scored.sum(axis=1) > 1  # a row with one figure is in no pair
        self._values, is_scored = values[rows], is_scored[rows]
        self._numbers, self.n_clusters = _numbered(clusters, rows)
        first, second = np.triu_indices(values.shape[1], 1)
        has_shared = (is_scored.T.astype(np.float64) @ is_scored)[first, second] > 0
        self._first, self._second = first[has_shared], second[has_shared]
        m = len(self._first)
        self._skew, self._n, self._squares, self._of_data, self._n_unlike_0, self._largest = np.zeros((6, m))
        for chunk in _chunks(np.arange(m)):
            sums, sizes = self._sums(chunk)
            part, self._largest[chunk] = _scaled(sums), np.abs(sums).max(axis=0)
            self._skew[chunk], self._n[chunk] = _skew_weights(sums, sizes), (sizes > 0).sum(axis=0)
            self._squares[chunk], self._n_unlike_0[chunk] = (part**2).sum(axis=0), (part != 0).sum(axis=0)
            self._of_data[chunk] = np.abs(self._hall_t(chunk, part.sum(axis=0), (part**3).sum(axis=0)))
        self._order = np.argsort(self._of_data, kind="stable")
        columns = _add_up(self._values, self._numbers, self.n_clusters)
        unlike_0 = self._largest[self._largest > 0]
        is_exact_enough = bool((unlike_0 > _NEARLY_EQUAL * np.abs(columns).max(initial=0.0)).all())  # never with NaN
        self._columns = columns if is_exact_enough else None
        self._n_as_far, self._n_further, self._n_patterns = np.zeros(m), np.zeros(m), 0

    def count(self, signs: Values) -> None:
        """Count the patterns of `signs` (block, C) whose statistic is as far from 0 as that of each pair."""
        furthest: Values = np.zeros((len(signs), 1))
        of_columns = None if self._columns is None else signs @ self._columns
        for chunk in _chunks(self._order):
            part = _scaled(self._sums(chunk)[0])
            if of_columns is None:
                first = signs @ part
            else:  # the sum of a difference is the difference of the sums
                largest = np.where(self._largest[chunk] > 0, self._largest[chunk], np.inf)
                first = (of_columns[:, self._first[chunk]] - of_columns[:, self._second[chunk]]) / largest
            of_flipped = np.abs(self._hall_t(chunk, first, signs @ part**3))
            of_flipped[:, 0] = np.maximum(of_flipped[:, 0], furthest[:, -1])
            furthest = np.maximum.accumulate(of_flipped, axis=1)
            n_as_far, n_further = _count_as_far(furthest, self._of_data[chunk])
            self._n_as_far[chunk] += n_as_far
            self._n_further[chunk] += n_further
        self._n_patterns += len(signs)

    def adjusted(self) -> Values:
        """Return the adjusted p of all pairs, shape (k, k)."""
        k = self._values.shape[1]
        adjusted = np.full((k, k), np.nan)
        if len(self._order):
            is_exact = self.n_clusters <= EXACT_UP_TO
            p = _p_of_counts(self._n_as_far, self._n_further, self._n_patterns, self._n_unlike_0, is_exact)
            p[self._order] = np.maximum.accumulate(p[self._order][::-1])[::-1]
            adjusted[self._first, self._second] = adjusted[self._second, self._first] = p
        return adjusted

    def _sums(self, pairs: Clusters) -> tuple[Values, Values]:
        """Return sums and sizes (C, m) of the clusters of the differences of these pairs."""
        differences = self._values[:, self._first[pairs]] - self._values[:, self._second[pairs]]
        is_shared = ~np.isnan(differences)
        sums = _add_up(np.where(is_shared, differences, 0.0), self._numbers, self.n_clusters)
        return sums, _add_up(is_shared.astype(np.float64), self._numbers, self.n_clusters)

    def _hall_t(self, pairs: Clusters, first: Values, third: Values) -> Values:
        return _hall_t(first, self._squares[pairs], third, self._n[pairs], self._skew[pairs])


def _chunks(numbers: Clusters) -> Iterator[Clusters]:
    return (numbers[start : start + _CHUNK_COLUMNS] for start in range(0, len(numbers), _CHUNK_COLUMNS))


def _tests(sums: Values, sizes: Values, seed: int) -> list[PairedTest]:
    """Return the tests of the columns of cluster `sums` (C, m), with an interval if one is possible."""
    skew = _skew_weights(sums, sizes)
    p_values = _p_values(sums, skew, seed)
    reasons = _why_no_interval(sums, sizes)
    can = np.flatnonzero([reason is None for reason in reasons])
    intervals: dict[int, Interval] = {}
    if len(can):
        lows, highs = _invert(sums[:, can], sizes, skew[can], p_values[can], seed)
        for column, low, high in zip(can.tolist(), lows.tolist(), highs.tolist(), strict=True):
            intervals[column] = Interval(low, high, "sign-flip")
    return [
        PairedTest(p, intervals.get(column), reason)
        for column, (p, reason) in enumerate(zip(p_values.tolist(), reasons, strict=True))
    ]


def _why_no_interval(sums: Values, sizes: Values) -> list[str | None]:
    """Return why each column of cluster `sums` (C, m) can't have an interval; None if it can.

    Clusters count by their size (Kish 1965): as many equal clusters as would weigh the same.
    """
    if too_few := why_too_few(sizes, "value" if len(sizes) == 1 else "values"):
        return [too_few] * sums.shape[1]
    mask = _is_informative(sums, np.broadcast_to(sizes[:, None], sums.shape))
    return [
        None
        if worth_of(sizes[unlike]) >= FEWEST_INFORMATIVE
        else f"too alike: {unlike.sum()} of {len(sizes)} differ from the rest, {FEWEST_INFORMATIVE} needed"
        for unlike in mask.T
    ]


def why_too_few(sizes: Values, units: str = "values") -> str | None:
    """Return why clusters of these sizes are too few or too unequal for an interval; None if they are not."""
    if len(sizes) < FEWEST_FOR_INTERVAL:
        return f"too few: {len(sizes)} independent {units}, {FEWEST_FOR_INTERVAL} needed"
    if (worth := worth_of(sizes)) < FEWEST_WORTH:
        return f"too unequal: {len(sizes)} queries are worth {worth:.1f} equal ones, {FEWEST_WORTH} needed"
    return None


def worth_of(sizes: Values) -> float:
    """Return the number of equal clusters that clusters of these sizes are worth (Kish 1965)."""
    return float(round(sizes.sum() ** 2 / (sizes**2).sum(), 9)) if len(sizes) else 0.0


def _invert(sums: Values, sizes: Values, skew: Values, p_at_0: Values, seed: int) -> tuple[Values, Values]:
    """Return the ends of the values that the test does not reject, for the columns of cluster `sums` (C, m).

    Sums of powers of (sum - value x size) are polynomials of the value; their coefficients are computed once.
    """
    n, m = len(sums), sums.shape[1]
    means, typical = _column_sums(sums) / sizes.sum(), sizes.mean()
    residuals = sums - means * sizes[:, None]
    scale = np.sqrt(_column_sums(residuals**2) / n)
    e, w = residuals / scale, sizes[:, None] / typical
    flipped = _flipped(np.concatenate([e, e**3, e**2 * w, e * w**2, w, w**3], axis=1), seed)
    first, third, square_w, e_square = (flipped[:, i * m : (i + 1) * m] for i in range(4))
    of_w, of_w3 = flipped[:, -2:-1], flipped[:, -1:]
    data = [(x.sum(axis=0)) for x in (e, e**3, e**2 * w, e * w**2, w, w**3)]
    ee, ew, ww = (e**2).sum(axis=0), (e * w).sum(axis=0), (w**2).sum()

    def is_rejected(value: Values) -> Booleans:
        squares = ee - 2 * value * ew + value**2 * ww
        of_data = np.abs(
            _hall_t(
                data[0] - value * data[4],
                squares,
                data[1] - 3 * value * data[2] + 3 * value**2 * data[3] - value**3 * data[5],
                n,
                skew,
            )
        )
        of_flipped = _hall_t(
            first - value * of_w,
            squares,
            third - 3 * value * square_w + 3 * value**2 * e_square - value**3 * of_w3,
            n,
            skew,
        )
        rejected: Booleans = _share_as_far(np.abs(of_flipped), of_data, np.full(m, n), is_exact=False) <= ALPHA
        return rejected

    is_0_rejected, zero = p_at_0 <= ALPHA, -means * typical / scale
    low = _end(is_rejected, -1.0, zero, is_0_rejected, n)
    high = _end(is_rejected, 1.0, zero, is_0_rejected, n)
    lows, highs = (means + end * scale / typical for end in (low, high))
    tiny = np.finfo(np.float64).tiny  # rounding must not move an end across 0
    is_above, is_below = is_0_rejected & (means > 0), is_0_rejected & (means < 0)
    lows = np.where(is_above, np.maximum(lows, tiny), np.where(is_below, lows, np.minimum(lows, 0.0)))
    highs = np.where(is_below, np.minimum(highs, -tiny), np.where(is_above, highs, np.maximum(highs, 0.0)))
    return lows, highs


def _column_sums(values: Values) -> Values:
    """Return the sum of each column, which does not depend on the others, as the last digit of `sum(axis=0)` does."""
    return np.asarray(np.asfortranarray(values).sum(axis=0))


def _end(
    is_rejected: Callable[[Values], Booleans], side: float, zero: Values, is_0_rejected: Booleans, n: int
) -> Values:
    """Return the value at which the test begins to reject on one side of the mean (0), given the result at `zero`."""
    inside = np.where((side * zero > 0) & ~is_0_rejected, side * zero, 0.0)
    outside = np.where((side * zero > 0) & is_0_rejected, side * zero, np.inf)
    step, is_open = 2.0 / math.sqrt(n), np.full(len(zero), True)
    while is_open.any():
        further = np.minimum(inside + step, outside)
        is_beyond = is_rejected(side * further) | (further == outside)
        outside = np.where(is_open & is_beyond, further, outside)
        inside = np.where(is_open & ~is_beyond, further, inside)
        is_open &= ~is_beyond
        step *= 1.5
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        is_beyond = is_rejected(side * middle)
        outside, inside = np.where(is_beyond, middle, outside), np.where(is_beyond, inside, middle)
    end: Values = side * (inside + outside) / 2
    return end


@cache
def _noncentrality(n: int, power: float, alpha: float) -> float:
    """Return how many standard errors the test of n clusters finds with this power."""
    margin = 4 / (3 * n)
    if n <= EXACT_UP_TO:  # p is a multiple of 2 / 2^n
        alpha, margin = math.floor(alpha * 2 ** (n - 1) + _EQUAL) / 2 ** (n - 1), 3 / (4 * n)
    s, weights = _errors(n)
    critical = _t_critical(n, alpha)
    return (1 + margin) * _root(lambda d: power - float(weights @ _normal_cdf(d - critical * s)), 0.0, 1e4)


@cache
def _t_critical(n: float, alpha: float) -> float:
    """Return the two-sided critical value of t of n values at level alpha."""
    s, weights = _errors(n)
    return _root(lambda c: 2 * float(weights @ _normal_cdf(-c * s)) - alpha, 0.0, 1e3)


def _errors(n: float) -> tuple[Values, Values]:
    """Return standard deviations of n values whose true one is 1, and the probability of each."""
    s = np.linspace(0, 1 + 8 / math.sqrt(2 * (n - 1)), 2_001)[1:]
    logs = (n - 2) * np.log(s) - (n - 1) * s**2 / 2
    weights = np.exp(logs - logs.max())
    return s, weights / weights.sum()


_normal_cdf = np.vectorize(_NORMAL.cdf)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of `f`, which falls from `low` to `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) > 0 else (low, middle)
    return (low + high) / 2
