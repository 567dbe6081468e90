"""The difference of the means of two groups, with a 95% interval that counts clusters, which may be in both groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qilin_rag.core.stats import FEWEST_FOR_INTERVAL, Booleans, Clusters, Interval, Values, paired_tests


class UnpairedDifference(NamedTuple):
    """The mean of the first group minus that of the second, its interval, or the reason why it has none."""

    value: float
    n_first: int
    n_second: int
    interval: Interval | None
    no_interval: str | None


def unpaired_differences(
    values: Values, is_first: Booleans, clusters: Clusters, seed: int = 0
) -> list[UnpairedDifference | None]:
    """Return the difference of each column between two groups of rows; None if one has no value.

    The difference is the mean of n (y - m1) / n1 over the first group and of -n (y - m2) / n2 over the second, plus
    m1 - m2, so that its interval is that of a mean (`stats.paired_tests`) of these values. Both groups need the fewest
    clusters of an interval.

    Args:
        values: (n, m), NaN for unscored values.
        is_first: Whether a row is of the first group, (n,).
        clusters: The cluster of each row, (n,).
        seed: The seed of the random signs.

    >>> values = np.array([[1.0], [0.0], [1.0], [0.0], [0.0]])
    >>> [found] = unpaired_differences(values, np.array([1, 1, 0, 0, 0], bool), np.arange(5))
    >>> round(found.value, 3), found.no_interval
    (0.167, '2 and 3 clusters in the groups: 20 of each are needed at least')
    """
    is_scored = ~np.isnan(values)
    n_of = [(is_scored & mask[:, None]).sum(axis=0) for mask in (is_first, ~is_first)]
    both = np.flatnonzero((n_of[0] > 0) & (n_of[1] > 0))
    influence = np.full(values.shape, np.nan)
    differences = np.zeros(values.shape[1])
    for column in both.tolist():
        rows = is_scored[:, column]
        for mask, sign, n in ((is_first, 1, n_of[0][column]), (~is_first, -1, n_of[1][column])):
            of_group = rows & mask
            mean = values[of_group, column].mean()
            differences[column] += sign * mean
            influence[of_group, column] = sign * rows.sum() * (values[of_group, column] - mean) / n
    tests = paired_tests(influence[:, both] + differences[both], clusters, seed)
    found: list[UnpairedDifference | None] = [None] * values.shape[1]
    for column, test in zip(both.tolist(), tests, strict=True):
        value, n_first, n_second = float(differences[column]), int(n_of[0][column]), int(n_of[1][column])
        n_clusters = [len(np.unique(clusters[is_scored[:, column] & mask])) for mask in (is_first, ~is_first)]
        if min(n_clusters) < FEWEST_FOR_INTERVAL:
            few = f"{n_clusters[0]} and {n_clusters[1]} clusters in the groups: {FEWEST_FOR_INTERVAL} of each are"
            found[column] = UnpairedDifference(value, n_first, n_second, None, f"{few} needed at least")
        else:
            found[column] = UnpairedDifference(value, n_first, n_second, test.interval, test.no_interval)
    return found
