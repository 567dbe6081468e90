"""Test whether one measure agrees better with people than another, and rank measures in clusters.

The test is PERM-BOTH (Deutsch, Dror and Roth 2021, arXiv 2104.00054), as in WMT's metrics task: both measures are
brought to one scale, and their scores are exchanged at random, all of a cluster together. The difference in correlation
is compared with those after such exchanges.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Literal, NamedTuple, get_args

import numpy as np

from qilin_rag.agreement.correlations import correlation_of_sums, pearson, ranks, scaled
from qilin_rag.agreement.tie_calibration import is_right, tie_calibrated
from qilin_rag.core.stats import ALPHA, EXACT_UP_TO, Booleans, Clusters, Values, holm, permutation_test, sign_patterns

Statistic = Literal["pearson", "spearman", "accuracy"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
_EQUAL = 1e-9


class Comparisons(NamedTuple):
    """The agreement of each two measures on the rows that both score, shape (measures, measures).

    Attributes:
        gains: By how much the first agrees better than the second.
        p: The two-sided p of no difference.

    Both are NaN for measures that are the same, share no row, or (but for accuracy) are constant.
    """

    gains: Values
    p: Values


class _Exchange(NamedTuple):
    """Two measures of one scale as sums by cluster: half their total, half their difference, and what is common."""

    total: Values
    difference: Values
    n: float
    y: float
    yy: float

    def gain(self, flipped: Values) -> Values:
        """Return the gain in correlation of the first measure for sums of flipped differences, shape (3, patterns)."""
        n, y, yy = (np.full(flipped.shape[1], total) for total in (self.n, self.y, self.yy))
        first, second = (
            correlation_of_sums(n, sums[0], y, sums[1], yy, sums[2])
            for sums in (self.total[:, None] + flipped, self.total[:, None] - flipped)
        )
        return first - second


def compare_measures(
    scores: Sequence[Values],
    labels: Values,
    clusters: Clusters,
    statistic: Statistic = "pearson",
    seed: int = 0,
    unsigned: Collection[int] = (),
) -> Comparisons:
    """Compare the agreement of each two measures.

    Args:
        scores: The scores of each measure, shape (n,); NaN for unscored rows. Two measures are compared on the rows
            that both score.
        labels: The labels of the rows, shape (n,).
        clusters: The cluster of each row; its scores are exchanged together.
        statistic: What is compared: `pearson`, `spearman` (ranks are exchanged), or `accuracy`, which is tested by
            flipping signs of the pairs that one measure alone gets right, each with its own epsilon.
        seed: Draws the exchanges; up to 12 clusters, all of them are made.
        unsigned: The places of measures whose correlation counts without its sign, since anybody could turn it round.
    """
    gains, p_values = (np.full((len(scores), len(scores)), np.nan) for _ in Comparisons._fields)
    by_size: dict[int, list[tuple[tuple[int, int], _Exchange]]] = {}
    of_accuracy: dict[tuple[int, int], Values] = {}
    for pair in combinations(range(len(scores)), 2):
        one, other = scores[pair[0]], scores[pair[1]]
        rows = ~np.isnan(one) & ~np.isnan(other)
        is_constant = statistic != "accuracy" and any(np.ptp(each[rows]) == 0 for each in (one, other) if rows.any())
        if not rows.any() or is_constant or np.array_equal(one[rows], other[rows]):
            continue
        if statistic == "accuracy":
            of_accuracy[pair] = np.full(len(rows), np.nan)
            of_accuracy[pair][rows] = _gain_in_accuracy(one[rows], other[rows], labels[rows])
            continue
        both = [(scores[place][rows], place in unsigned) for place in pair]
        exchange = _exchange(both, labels[rows], clusters[rows], statistic)
        by_size.setdefault(len(exchange.difference), []).append((pair, exchange))
    for n_clusters, exchanges in by_size.items():
        tested = _gains_and_p([each for _, each in exchanges], n_clusters, seed)
        for (pair, _), (gain, p) in zip(exchanges, tested, strict=True):
            gains[pair], gains[pair[::-1]] = gain, -gain
            p_values[pair] = p_values[pair[::-1]] = p
    if of_accuracy:
        of_pairs = permutation_test(np.stack(list(of_accuracy.values()), axis=1), clusters, seed)
        for (pair, of_rows), of_pair in zip(of_accuracy.items(), of_pairs, strict=True):
            gains[pair] = np.nanmean(of_rows)
            gains[pair[::-1]] = -gains[pair]
            p_values[pair] = p_values[pair[::-1]] = np.nan if of_pair is None else of_pair
    return Comparisons(gains, p_values)


def _exchange(
    both: Sequence[tuple[Values, bool]], labels: Values, clusters: Clusters, statistic: Statistic
) -> _Exchange:
    """Bring two measures, each with whether its correlation counts without its sign, to one scale."""
    of_scale = ranks if statistic == "spearman" else np.asarray
    y = scaled(of_scale(labels))
    found, numbers = np.unique(clusters, return_inverse=True)
    sums = []
    for values, is_unsigned in both:
        z = scaled(of_scale(values))
        z /= -z.std() if is_unsigned and (pearson(z, y) or 0) < 0 else z.std()
        of_clusters = np.zeros((len(found), 3))
        np.add.at(of_clusters, numbers, np.stack([z, z * z, z * y], axis=1))
        sums.append(of_clusters)
    total, difference = (sums[0] + sums[1]).sum(axis=0) / 2, (sums[0] - sums[1]) / 2
    return _Exchange(total, difference, float(len(y)), float(y.sum()), float((y * y).sum()))


def _gains_and_p(exchanges: Sequence[_Exchange], n_clusters: int, seed: int) -> list[tuple[float, float]]:
    """Return each gain, and the share of patterns as far from 0; of random ones with the data among them."""
    differences = np.stack([each.difference for each in exchanges]).transpose(0, 2, 1)
    of_data = [
        float(each.gain(sums[:, None])[0]) for each, sums in zip(exchanges, differences.sum(axis=2), strict=True)
    ]
    n_as_far, n_patterns = [0] * len(exchanges), 0
    for signs in sign_patterns(n_clusters, seed):
        n_patterns += len(signs)
        flipped = (differences.reshape(-1, n_clusters) @ signs.T).reshape(len(exchanges), 3, -1)
        for place, (each, sums, gain) in enumerate(zip(exchanges, flipped, of_data, strict=True)):
            n_as_far[place] += int((np.abs(each.gain(sums)) >= abs(gain) - _EQUAL).sum())
    one = 0 if n_clusters <= EXACT_UP_TO else 1
    return [
        (gain, (n + one) / (n_patterns + one) if not np.isnan(gain) else np.nan)
        for n, gain in zip(n_as_far, of_data, strict=True)
    ]


def _gain_in_accuracy(one: Values, other: Values, labels: Values) -> Values:
    """Return 1 for each pair that only the first measure gets right, -1 for each that only the second does, else 0."""
    right = []
    for scores in (one, other):
        calibrated = tie_calibrated(scores, labels)
        assert calibrated  # there are rows
        right.append(is_right(scores, labels, calibrated.epsilon))
    return np.asarray(right[0] - right[1])


def holm_matrix(p: Values) -> Values:
    """Return Holm's adjusted p over all pairs of a symmetric array, NaN kept."""
    adjusted = np.full_like(p, np.nan)
    first, second = np.triu_indices(len(p), 1)
    is_known = ~np.isnan(p[first, second])
    first, second = first[is_known], second[is_known]
    adjusted[first, second] = adjusted[second, first] = holm(p[first, second].tolist())
    return adjusted


def rank_clusters(values: Sequence[float | None], gains: Values, p: Values) -> list[int | None]:
    """Return the rank of each measure: measures not significantly worse than the best of their cluster share it.

    The best measure leads the first cluster. Down the order of values, the first measure that is significantly worse
    than the leader leads the next one, as in WMT's metrics task.

    Args:
        values: The agreement of each measure; None has no rank.
        gains: By how much the first of each two measures agrees better, on the rows that both score.
        p: The adjusted p of each two measures.

    >>> rank_clusters([0.7, 0.2], np.array([[np.nan, 0.5], [-0.5, np.nan]]), np.full((2, 2), 0.01))
    [1, 2]
    """
    found: list[int | None] = [None] * len(values)
    order = sorted((-value, place) for place, value in enumerate(values) if value is not None)
    leader, rank = None, 0
    for _, place in order:
        if leader is None or (p[leader, place] <= ALPHA and gains[leader, place] > 0):
            leader, rank = place, rank + 1
        found[place] = rank
    return found


def beats_all(gains: Values, p: Values) -> list[float | None]:
    """Return Holm's p of each measure agreeing better than every rival; None for one that does not.

    A measure must be better than each single rival, so its p is the highest of those (an intersection-union test,
    Berger 1982), and only the number of measures needs Holm's adjustment.

    Args:
        gains: By how much each measure agrees better than each rival, shape (measures, rivals); NaN if it can't be
            compared with it, so that it is not better.
        p: The p of each measure against each rival, likewise.

    Returns:
        None for every measure if there is no rival.

    >>> beats_all(np.array([[0.2, 0.1], [0.3, -0.1]]), np.array([[0.001, 0.02], [0.001, 0.02]]))
    [0.04, None]
    """
    if not gains.shape[1]:
        return [None] * len(gains)
    is_better: Booleans = np.all(gains > 0, axis=1)
    adjusted = holm(np.where(is_better, p.max(axis=1), 1.0).tolist())
    return [mine if better else None for mine, better in zip(adjusted, is_better.tolist(), strict=True)]
