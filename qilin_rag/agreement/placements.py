"""Test whether the AUC of one score is higher than that of another, from what each answer adds to the AUC.

The placement of a flagged answer is the share of the other answers that score lower, and that of another answer the
share of the flagged ones that score higher (DeLong, DeLong and Clarke-Pearson 1988). Both kinds have the AUC as their
mean, so half of it is taken off each placement: what is left adds up to the AUC, and varies as much as the AUC. If two
scores are equally good, what an answer adds can be exchanged between them, for all answers of a user together
(Obuchowski 1997 has such clusters).
"""

from __future__ import annotations

import numpy as np

from qilin_rag.core.stats import Booleans, Clusters, Values, permutation_test


def additions(scores: Values, flags: Booleans, strata: Clusters) -> Values:
    """Return what each answer adds to the AUC within strata, shape (n,).

    Args:
        scores: The score of each answer, shape (n,).
        flags: Whether each answer is flagged, shape (n,).
        strata: The stratum of each answer; only answers of one stratum are compared.

    Returns:
        Over the number of all pairs: the pairs of an answer that are in the right order, a tie counting half, less half
        the AUC for each of its pairs. All 0 if there is no pair.

    >>> additions(np.array([0.1, 0.9]), np.array([False, True]), np.zeros(2, dtype=np.intp)).tolist()
    [0.5, 0.5]
    """
    right, n_of_answer, n_pairs = np.zeros(len(scores)), np.zeros(len(scores)), 0
    for stratum in np.unique(strata):
        rows = strata == stratum
        flagged, others = scores[rows & flags], scores[rows & ~flags]
        n_pairs += len(flagged) * len(others)
        n_of_answer[rows & flags], n_of_answer[rows & ~flags] = len(others), len(flagged)
        right[rows & flags] = _n_below(others, flagged)
        right[rows & ~flags] = len(flagged) - _n_below(flagged, others)
    if not n_pairs:
        return right
    auc = right[flags].sum() / n_pairs
    added: Values = (right - n_of_answer * auc / 2) / n_pairs
    return added


def _n_below(values: Values, scores: Values) -> Values:
    """Return how many values are below each score; equal ones count half."""
    values = np.sort(values)
    return (np.searchsorted(values, scores, "left") + np.searchsorted(values, scores, "right")) / 2


def p_of_differences(differences: Values, clusters: Clusters, seed: int = 0) -> list[float]:
    """Return the two-sided p of no difference between two AUCs, for each column.

    Args:
        differences: What each answer adds to the AUC of one score less what it adds to that of the other, shape (n, m);
            NaN for an answer that is not compared.
        clusters: The cluster of each answer, whose additions are exchanged together.
        seed: Draws the exchanges; up to 12 clusters, all of them are made.

    >>> flags, own = np.array([True, False] * 3), np.arange(6)
    >>> same = additions(np.ones(6), flags, np.zeros(6, dtype=np.intp))
    >>> p_of_differences((same - same)[:, None], own)
    [1.0]
    """
    return [1.0 if p is None else p for p in permutation_test(differences, clusters, seed)]
