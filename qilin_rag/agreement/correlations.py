"""Correlations of scores with people's labels, of the values as they are and of any number of weightings at once.

A function in the plural takes weights of the rows, shape (resamples, rows), and returns one figure for each resample,
NaN if it is undefined. One in the singular returns the figure of the rows as they are, None if it is undefined.
"""

from __future__ import annotations

import numpy as np

from qilin_rag.core.stats import Clusters, Values

_CONSTANT = 1e-10
"""The share of the mean square below which a variance is rounding."""
_BLOCK_PAIRS = 4_000_000


def pearson(scores: Values, labels: Values) -> float | None:
    """Return Pearson's correlation.

    Args:
        scores: The scores of a measure, shape (n,).
        labels: The labels of the same rows, shape (n,).

    Returns:
        The correlation; None if scores or labels are all equal.

    >>> pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    1.0
    """
    return plain(pearsons(scores, labels, np.ones((1, len(scores)))))


def spearman(scores: Values, labels: Values) -> float | None:
    """Return Spearman's correlation: Pearson's of the ranks, tied values with the mean of their ranks.

    Args:
        scores: The scores of a measure, shape (n,).
        labels: The labels of the same rows, shape (n,).

    Returns:
        The correlation; None if scores or labels are all equal.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([2.0, 4.0, 6.0]))
    1.0
    """
    return plain(spearmans(scores, labels, np.ones((1, len(scores)))))


def pearsons(scores: Values, labels: Values, weights: Values) -> Values:
    """Return Pearson's correlation under each row of weights, shape (resamples,)."""
    if not len(scores):
        return np.full(len(weights), np.nan)
    x, y = (scaled(values) for values in (scores, labels))
    sums = weights @ np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return correlation_of_sums(*sums.T)


def scaled(values: Values) -> Values:
    """Return values around 0 of a size that can be squared."""
    scaled = values / (np.abs(values).max() or 1.0)
    return np.asarray(scaled - scaled.mean())


def correlation_of_sums(n: Values, x: Values, y: Values, xx: Values, yy: Values, xy: Values) -> Values:
    """Return Pearson's correlation of weighted sums: of ones, x, y, their squares and their product."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y, xx, yy, xy = (total / n for total in (x, y, xx, yy, xy))
        variances = [square - mean**2 for square, mean in ((xx, x), (yy, y))]
        is_constant = (variances[0] <= _CONSTANT * xx) | (variances[1] <= _CONSTANT * yy)
        found = (xy - x * y) / np.sqrt(variances[0] * variances[1])
    correlations: Values = np.where(is_constant, np.nan, np.clip(found, -1.0, 1.0))
    return correlations


def spearmans(scores: Values, labels: Values, weights: Values) -> Values:
    """Return Spearman's correlation under each row of weights, shape (resamples,); a weight of 2 is a row twice."""
    if not len(scores):
        return np.full(len(weights), np.nan)
    x, y = (_centred_ranks(values, weights) for values in (scores, labels))
    weighted = weights * x
    return correlation_of_sums(
        weights.sum(axis=1),
        weighted.sum(axis=1),
        np.einsum("ri,ri->r", weights, y),
        np.einsum("ri,ri->r", weighted, x),
        np.einsum("ri,ri,ri->r", weights, y, y),
        np.einsum("ri,ri->r", weighted, y),
    )


def ranks(values: Values) -> Values:
    """Return ranks around 0, shape (n,); tied values have the mean of their ranks."""
    [found] = _centred_ranks(values, np.ones((1, len(values))))
    return np.asarray(found)


def _centred_ranks(values: Values, weights: Values) -> Values:
    order, starts, numbers = sorted_groups(values)
    sizes = sums_of_groups(weights[:, order], starts)
    middles = sizes.cumsum(axis=1) - sizes / 2 - weights.sum(axis=1, keepdims=True) / 2
    found: Values = middles[:, numbers]
    return found


def sorted_groups(values: Values) -> tuple[Clusters, Clusters, Clusters]:
    """Return the order of values (n,), the starts of their groups of equal values in it, and the group of each row."""
    order = np.argsort(values, kind="stable")
    is_new = np.concatenate([[True], np.diff(values[order]) != 0])
    numbers = np.empty(len(values), dtype=np.intp)
    numbers[order] = is_new.cumsum() - 1
    return order, np.flatnonzero(is_new), numbers


def sums_of_groups(weights: Values, starts: Clusters) -> Values:
    """Return the sums of the columns of each group that begins at `starts`, shape (resamples, groups)."""
    sums: Values = weights if len(starts) == weights.shape[1] else np.add.reduceat(weights, starts, axis=1)
    return sums


class KendallSums:
    """The pairs of rows by cluster, from which Kendall's tau-b (`stats.kendall_tau`) of any resample follows.

    Args:
        scores: The scores of a measure, shape (n,).
        labels: The labels of the same rows, shape (n,).
        clusters: The cluster of each row, from 0, shape (n,).
    """

    def __init__(self, scores: Values, labels: Values, clusters: Clusters) -> None:
        """Add up the signs of all pairs, a block of rows at a time."""
        order = np.argsort(clusters, kind="stable")
        x, y, of = scores[order], labels[order], clusters[order]
        starts = np.flatnonzero(np.concatenate([[True], np.diff(of) != 0]))
        n_clusters = len(starts)
        self._sums = np.zeros((3, n_clusters, n_clusters))
        first, n_rows = 0, max(1, _BLOCK_PAIRS // max(1, len(x)))
        number = np.repeat(np.arange(n_clusters), np.diff([*starts, len(x)]))
        while first < len(x):
            rows = slice(first, first + n_rows)
            signs = [np.sign(values[rows, None] - values) for values in (x, y)]
            for total, pairs in zip(self._sums, (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1])), strict=True):
                np.add.at(total, number[rows], np.add.reduceat(pairs, starts, axis=1))
            first += n_rows

    def tau(self) -> float | None:
        """Return tau-b of the rows as they are; None if it is undefined."""
        return plain(self.taus(np.ones((1, self._sums.shape[1]))))

    def taus(self, weights: Values) -> Values:
        """Return tau-b under each row of cluster weights (resamples, clusters); NaN if it is undefined."""
        both, of_scores, of_labels = (np.einsum("rc,rc->r", weights @ total, weights) for total in self._sums)
        return ratio(both, np.sqrt(of_scores * of_labels))


def ratio(part: Values, whole: Values) -> Values:
    """Return part / whole, NaN if the whole is not above 0."""
    found: Values = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return found


def plain(figures: Values) -> float | None:
    """Return the only figure of an array as a number; None if it is undefined."""
    [figure] = figures.tolist()
    return None if np.isnan(figure) else float(figure)
