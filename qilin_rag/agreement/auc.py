"""AUC of a score for flags that are 0 or 1: how often a flagged answer has the higher score, ties counting half.

Within strata only answers of one stratum are compared, so that what the strata are made of (length) can't explain it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from qilin_rag.agreement.correlations import plain, ratio, sorted_groups, sums_of_groups
from qilin_rag.agreement.intervals import AgreementFigure, by_row, with_interval
from qilin_rag.core.stats import ALPHA, Booleans, Clusters, Values

_NORMAL = NormalDist()
_HALVINGS = 60


class DetectableAuc(NamedTuple):
    """The smallest AUC above one half that so many flags can show; None with the reason."""

    value: float | None
    reason: str | None = None


def auc(
    scores: Values, flags: Booleans, users: Clusters | None = None, strata: Clusters | None = None, seed: int = 0
) -> AgreementFigure:
    """Return the AUC, within strata if given, with a 95% interval by draws of users.

    Args:
        scores: The score of each answer, shape (n,).
        flags: Whether each answer is flagged, shape (n,).
        users: The user of each answer; None means that each has its own.
        strata: The stratum of each answer; None means that all are compared.
        seed: Draws the users.

    Returns:
        The share of pairs of a flagged and another answer, each pair of one stratum, in which the flagged one has the
        higher score. No value if there is no such pair.

    >>> auc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])).value
    0.875
    """
    strata = np.zeros(len(scores), dtype=np.intp) if strata is None else strata
    users = np.arange(len(scores)) if users is None else users
    value = plain(aucs(scores, flags, np.ones((1, len(scores))), strata))
    why = "no flagged and other answer to compare"
    return with_interval(
        value, by_row(lambda weights: aucs(scores, flags, weights, strata)), "share", users, seed=seed, why=why
    )


def aucs(scores: Values, flags: Booleans, weights: Values, strata: Clusters) -> Values:
    """Return the AUC under each row of weights (resamples, n); NaN without a pair to compare."""
    right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        order, starts, _ = sorted_groups(scores[rows])
        rows = rows[order]
        flagged, others = (sums_of_groups(weights[:, rows] * these[rows], starts) for these in (flags, ~flags))
        right += (flagged * (others.cumsum(axis=1) - others / 2)).sum(axis=1)
        pairs += flagged.sum(axis=1) * others.sum(axis=1)
    return ratio(right, pairs)


def quantile_strata(values: Sequence[float], n: int = 5) -> Clusters:
    """Return the stratum of each value, from 0: `n` strata of about one size, equal values in one.

    >>> quantile_strata([10, 20, 30, 40], 2).tolist()
    [0, 0, 1, 1]
    """
    cuts = np.quantile(values, np.arange(1, n) / n) if len(values) else np.zeros(0)
    return np.searchsorted(cuts, np.asarray(values, dtype=np.float64), side="left").astype(np.intp)


def detectable_auc(n_flagged: int, n_others: int, power: float = 0.8, alpha: float = ALPHA) -> DetectableAuc:
    """Return the smallest AUC above one half that a test finds with this power.

    The variance is that of Hanley and McNeil (1982, Radiology 143), at one half for the level and at the AUC for the
    power. It holds for independent answers; those of few users show less.

    Args:
        n_flagged: The number of flagged answers.
        n_others: The number of other answers.
        power: The share of cases in which the test finds it.
        alpha: The two-sided level of the test.

    >>> round(detectable_auc(50, 50).value, 3)
    0.659
    """
    if min(n_flagged, n_others) < 1:
        return DetectableAuc(None, "nothing can be shown without flagged and other answers")
    critical, found = _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(power)

    def is_shown(value: float) -> bool:
        needed = critical * _standard_error(0.5, n_flagged, n_others) + found * _standard_error(
            value, n_flagged, n_others
        )
        return value - 0.5 >= needed

    low, high = 0.5, 1.0
    if not is_shown(high):
        return DetectableAuc(None, f"{n_flagged} flagged and {n_others} other answers can't show any AUC")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_shown(middle) else (middle, high)
    return DetectableAuc(high)


def _standard_error(value: float, n_flagged: int, n_others: int) -> float:
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (n_flagged - 1) * (q1 - value**2) + (n_others - 1) * (q2 - value**2)
    return math.sqrt(max(0.0, variance / (n_flagged * n_others)))
