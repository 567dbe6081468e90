"""Pairwise accuracy with tie calibration (Deutsch, Foster and Freitag 2023, arXiv 2305.14324).

People often find two answers equally good, a measure hardly ever gives two equal scores. So a pair whose scores differ
by at most epsilon counts as a tie of the measure, and epsilon is the one that makes the accuracy highest.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.core.stats import Values, clusters_by


class TieCalibrated(NamedTuple):
    """The share of pairs on which measure and people agree, ties included, and the epsilon that it is highest with."""

    accuracy: float
    epsilon: float


class ScorePairs(NamedTuple):
    """Differences of all pairs of rows within an item: of scores, of labels, and how much each pair counts."""

    scores: Values
    labels: Values
    weights: Values


def tie_calibrated(scores: Values, labels: Values, weights: Values | None = None) -> TieCalibrated | None:
    """Return the pairwise accuracy with tie calibration.

    Args:
        scores: The difference of scores of each pair, shape (n,).
        labels: The difference of labels of each pair, shape (n,); 0 is a tie.
        weights: How much each pair counts. Default: all the same.

    Returns:
        The accuracy and its epsilon, the smallest one of several; None without pairs.

    >>> tie_calibrated(np.array([0.5, 0.1, -0.4]), np.array([1.0, 0.0, -2.0]))
    TieCalibrated(accuracy=1.0, epsilon=0.1)
    """
    if not len(scores):
        return None
    weights = np.ones(len(scores)) if weights is None else weights
    sizes, shares = _by_epsilon(scores, labels, weights[None])
    best = int(shares[0].argmax())
    return TieCalibrated(float(shares[0, best]), float(sizes[best]))


def tie_calibrated_accuracies(scores: Values, labels: Values, weights: Values) -> Values:
    """Return the accuracy under each row of weights (resamples, n), each with an epsilon of its own."""
    if not len(scores):
        return np.full(len(weights), np.nan)
    shares: Values = _by_epsilon(scores, labels, weights)[1].max(axis=1)
    return shares


def is_right(scores: Values, labels: Values, epsilon: float) -> Values:
    """Return 1 for each pair on which measure and people agree at this epsilon, else 0, shape (n,)."""
    right: Values = (np.where(np.abs(scores) <= epsilon, 0.0, np.sign(scores)) == np.sign(labels)).astype(np.float64)
    return right


def _by_epsilon(scores: Values, labels: Values, weights: Values) -> tuple[Values, Values]:
    """Return each possible epsilon from 0, shape (m,), and the accuracies with it, shape (resamples, m)."""
    order = np.argsort(np.abs(scores), kind="stable")
    sizes, right = np.abs(scores)[order], is_right(scores, labels, 0.0)[order]
    gains = (labels[order] == 0) - right
    ends = np.flatnonzero(np.concatenate([np.diff(sizes) != 0, [True]]))
    sorted_weights = weights[:, order]
    total = sorted_weights.sum(axis=1, keepdims=True)
    gained = (sorted_weights * gains).cumsum(axis=1)[:, ends]
    right_at_0 = (sorted_weights * right).sum(axis=1, keepdims=True)
    shares = np.concatenate([right_at_0, right_at_0 + gained], axis=1) / total
    return np.concatenate([[0.0], sizes[ends]]), shares


def pairs_of(scores: Values, labels: Values, items: Sequence[Hashable] | None = None) -> ScorePairs:
    """Return all pairs of rows, or those within an item, as the shared task of WMT groups them.

    Args:
        scores: The scores of a measure, shape (n,).
        labels: The labels of the same rows, shape (n,).
        items: The item of each row (a question); None means that all pairs of rows count.

    Returns:
        The differences. Items have equal weight in sum, however many pairs they have.

    >>> pairs_of(np.array([1.0, 3.0, 9.0]), np.array([0.0, 1.0, 1.0]), ["q1", "q1", "q2"]).scores
    array([-2.])
    """
    numbers = np.zeros(len(scores), dtype=np.intp) if items is None else clusters_by(items)
    first, second = np.triu_indices(len(scores), 1)
    is_within = numbers[first] == numbers[second]
    first, second = first[is_within], second[is_within]
    n_pairs = np.bincount(numbers[first], minlength=1)
    return ScorePairs(scores[first] - scores[second], labels[first] - labels[second], 1 / n_pairs[numbers[first]])
