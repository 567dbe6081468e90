"""Test whether one measure agrees better with people than another, and rank measures in clusters.

The test is PERM-BOTH (Deutsch, Dror and Roth 2021, arXiv 2104.00054), as in WMT's metrics task: both measures are
brought to one scale, and their scores are exchanged at random, all of a cluster together. The difference in correlation
is compared with those after such exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple, get_args

import numpy as np

from qilin_rag.agreement.correlations import correlation_of_sums, ranks, scaled
from qilin_rag.agreement.tie_calibration import is_right, tie_calibrated
from qilin_rag.core.stats import ALPHA, EXACT_UP_TO, Clusters, Values, holm, permutation_test, sign_patterns

Statistic = Literal["pearson", "spearman", "accuracy"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
_EQUAL = 1e-9


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
    scores: Sequence[Values], labels: Values, clusters: Clusters, statistic: Statistic = "pearson", seed: int = 0
) -> Values:
    """Return the two-sided p of no difference in agreement, for each two measures, shape (measures, measures).

    Args:
        scores: The scores of each measure, shape (n,); NaN for unscored rows. Two measures are compared on the rows
            that both score.
        labels: The labels of the rows, shape (n,).
        clusters: The cluster of each row; its scores are exchanged together.
        statistic: What is compared: `pearson`, `spearman` (ranks are exchanged), or `accuracy`, which is tested by
            flipping signs of the pairs that one measure alone gets right, each with its own epsilon.
        seed: Draws the exchanges; up to 12 clusters, all of them are made.

    Returns:
        A symmetric array; NaN for measures that are the same, share no row, or (but for accuracy) are constant.
    """
    found = np.full((len(scores), len(scores)), np.nan)
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
        exchange = _exchange(one[rows], other[rows], labels[rows], clusters[rows], statistic)
        by_size.setdefault(len(exchange.difference), []).append((pair, exchange))
    for n_clusters, exchanges in by_size.items():
        for (pair, _), p in zip(exchanges, _p_values([each for _, each in exchanges], n_clusters, seed), strict=True):
            found[pair] = found[pair[::-1]] = p
    if of_accuracy:
        of_pairs = permutation_test(np.stack(list(of_accuracy.values()), axis=1), clusters, seed)
        for pair, of_pair in zip(of_accuracy, of_pairs, strict=True):
            found[pair] = found[pair[::-1]] = np.nan if of_pair is None else of_pair
    return found


def _exchange(one: Values, other: Values, labels: Values, clusters: Clusters, statistic: Statistic) -> _Exchange:
    if statistic == "spearman":
        one, other, labels = ranks(one), ranks(other), ranks(labels)
    y = scaled(labels)
    found, numbers = np.unique(clusters, return_inverse=True)
    sums = []
    for values in (one, other):
        z = scaled(values) / scaled(values).std()
        of_clusters = np.zeros((len(found), 3))
        np.add.at(of_clusters, numbers, np.stack([z, z * z, z * y], axis=1))
        sums.append(of_clusters)
    total, difference = (sums[0] + sums[1]).sum(axis=0) / 2, (sums[0] - sums[1]) / 2
    return _Exchange(total, difference, float(len(y)), float(y.sum()), float((y * y).sum()))


def _p_values(exchanges: Sequence[_Exchange], n_clusters: int, seed: int) -> list[float]:
    """Return the share of patterns as far from 0 as the data; of random ones with the data among them."""
    differences = np.stack([each.difference for each in exchanges]).transpose(0, 2, 1)
    of_data = [
        float(abs(each.gain(sums[:, None])[0])) for each, sums in zip(exchanges, differences.sum(axis=2), strict=True)
    ]
    n_as_far, n_patterns = [0] * len(exchanges), 0
    for signs in sign_patterns(n_clusters, seed):
        n_patterns += len(signs)
        flipped = (differences.reshape(-1, n_clusters) @ signs.T).reshape(len(exchanges), 3, -1)
        for place, (each, sums, far) in enumerate(zip(exchanges, flipped, of_data, strict=True)):
            n_as_far[place] += int((np.abs(each.gain(sums)) >= far - _EQUAL).sum())
    one = 0 if n_clusters <= EXACT_UP_TO else 1
    return [
        (n + one) / (n_patterns + one) if not np.isnan(far) else np.nan
        for n, far in zip(n_as_far, of_data, strict=True)
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


def rank_clusters(values: Sequence[float | None], p: Values) -> list[int | None]:
    """Return the rank of each measure: measures not significantly worse than the best of their cluster share it.

    The best measure leads the first cluster. Down the order of values, the first measure that is significantly worse
    than the leader leads the next one, as in WMT's metrics task.

    Args:
        values: The agreement of each measure; None has no rank.
        p: The adjusted p of each two measures.

    >>> rank_clusters([0.2, 0.7, None, 0.6], np.where(np.eye(4) == 1, np.nan, [[1, .01, 1, .01]] * 4))
    [2, 1, None, 1]
    """
    found: list[int | None] = [None] * len(values)
    order = sorted((-value, place) for place, value in enumerate(values) if value is not None)
    leader, rank = None, 0
    for _, place in order:
        if leader is None or p[leader, place] <= ALPHA:
            leader, rank = place, rank + 1
        found[place] = rank
    return found


def beats_all(values: Sequence[float | None], rivals: Sequence[float | None], p: Values) -> list[float | None]:
    """Return Holm's p of each measure agreeing better than every rival; None for one that does not.

    A measure must be better than each single rival, so its p is the highest of those (an intersection-union test,
    Berger 1982), and only the number of measures needs Holm's adjustment.

    Args:
        values: The agreement of each measure.
        rivals: The agreement of each rival; one without a value can't be beaten and is left out.
        p: The p of each measure against each rival, shape (measures, rivals); NaN counts as 1.

    Returns:
        None for every measure if no rival has a value.
    """
    known = [place for place, rival in enumerate(rivals) if rival is not None]
    if not known:
        return [None] * len(values)
    strongest = max(rival for rival in rivals if rival is not None)
    is_better = [value is not None and value > strongest for value in values]
    highest = np.where(np.isnan(p), 1.0, p)[:, known].max(axis=1)
    adjusted = holm(np.where(is_better, highest, 1.0).tolist())
    return [mine if better else None for mine, better in zip(adjusted, is_better, strict=True)]
