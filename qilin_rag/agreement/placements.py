"""Test whether the AUC of one score is higher than that of another, from the placements of answers.

The placement of a flagged answer is the share of the other answers that score lower, and that of another answer the
share of the flagged ones that score higher (DeLong, DeLong and Clarke-Pearson 1988). If two scores are equally good,
their placements of an answer can be exchanged, for all answers of a user together (Obuchowski 1997 has such clusters).
"""

from __future__ import annotations

import numpy as np

from qilin_rag.core.stats import Booleans, Clusters, Values, paired_tests


def placements(scores: Values, flags: Booleans, strata: Clusters) -> Values:
    """Return what each answer adds to the AUC within strata, shape (n,); all together add up to twice the AUC.

    Args:
        scores: The score of each answer, shape (n,).
        flags: Whether each answer is flagged, shape (n,).
        strata: The stratum of each answer; only answers of one stratum are compared.

    Returns:
        The pairs that each answer is in and that are in the right order, over the number of all pairs; a tie counts
        half. All 0 if there is no pair.
    """
    right, n_pairs = np.zeros(len(scores)), 0
    for stratum in np.unique(strata):
        rows = strata == stratum
        flagged, others = np.sort(scores[rows & flags]), np.sort(scores[rows & ~flags])
        n_pairs += len(flagged) * len(others)
        of_flagged, of_others = scores[rows & flags], scores[rows & ~flags]
        ends = [np.searchsorted(others, of_flagged, side) for side in ("left", "right")]
        right[rows & flags] = (ends[0] + ends[1]) / 2
        ends = [np.searchsorted(flagged, of_others, side) for side in ("left", "right")]
        right[rows & ~flags] = len(flagged) - (ends[0] + ends[1]) / 2
    return right / n_pairs if n_pairs else right


def p_of_difference(one: Values, other: Values, clusters: Clusters, seed: int = 0) -> float:
    """Return the two-sided p of no difference between two AUCs.

    Args:
        one: The placements by one score, shape (n,).
        other: The placements of the same answers by the other score.
        clusters: The cluster of each answer, whose placements are exchanged together.
        seed: Draws the exchanges; up to 12 clusters, all of them are made.

    >>> flags, own = np.array([True, False] * 3), np.arange(6)
    >>> same = placements(np.ones(6), flags, np.zeros(6, dtype=np.intp))
    >>> p_of_difference(same, same, own)
    1.0
    """
    p = paired_tests((one - other)[:, None], clusters, seed)[0].p
    assert p is not None  # there are answers
    return p
