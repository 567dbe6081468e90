"""The effect of a treatment on the treated, from observational data: matching and double robustness.

A propensity model gives the probability of treatment of each unit, given its covariates; outcome models predict what
untreated units would do (`nuisance`). Weights make the untreated resemble the treated (`overlap`).
"""

from __future__ import annotations

import bisect
import math
from typing import NamedTuple

import numpy as np

from qilin_rag.analysis.functions import Bools, Floats, Ints

FEWEST_GROUPS = 5
"""The fewest equal groups that the data must be worth for an interval."""

FEWEST_OTHERS = 5
"""The fewest values on each side that differ from the most frequent one, for an interval."""

_CALIPER_SD = 0.2
_ROUNDING = 1e-9


class Estimate(NamedTuple):
    """An effect in units of the outcome, with its 95% interval.

    Attributes:
        treated: The mean of the treated.
        untreated: The mean that it is compared with.
        low: The lower end of the interval; None if there is no interval.
        high: The upper end of the interval; None if there is no interval.
        effective_groups: The number of equal groups that the data are worth, fewer for more unequal groups; None for an
            estimate without a variance.
    """

    value: float
    low: float | None
    high: float | None
    treated: float
    untreated: float
    effective_groups: float | None = None


class Matches(NamedTuple):
    """Rows of matched pairs, treated and untreated, of similar propensity; unmatched treated units are left out."""

    treated: Ints
    untreated: Ints


def naive(outcome: Floats, treated: Bools, groups: Ints) -> Estimate:
    """Return the raw difference of the means; its interval is of this difference, not of an effect."""
    return doubly_robust(outcome, np.zeros(len(outcome)), np.ones(len(outcome)), treated, groups)


def doubly_robust(outcome: Floats, predicted: Floats, weight: Floats, treated: Bools, groups: Ints) -> Estimate:
    """Estimate the effect on the treated by AIPW with normalised weights (Robins et al. 1994; Mercatanti & Li 2014).

    The estimate is right if either `predicted` or `weight` is. The interval is the jackknife's over groups. Its t
    distribution has as many degrees of freedom as the groups are worth (`effective_groups`), less one.

    Args:
        outcome: The outcomes, (n,).
        predicted: The outcome of each unit without treatment, (n,), by models that did not see its group.
        weight: 1 for the treated; for the others a weight that makes them resemble the treated, such as their odds,
            (n,).
        treated: Whether each unit is treated, (n,).
        groups: Units of one group are not independent evidence, (n,).
    """
    from scipy.stats import t

    residual = outcome - predicted
    share = np.where(treated, weight / weight[treated].sum(), weight / weight[~treated].sum())
    means = [float(share[mask] @ residual[mask]) for mask in (treated, ~treated)]
    effect = means[0] - means[1]
    mean = float(outcome[treated].mean())
    deviation = residual - np.where(treated, *means)
    _, group_numbers = np.unique(groups, return_inverse=True)
    worth = effective_groups(share, deviation, treated, group_numbers)
    error = _jackknife_error(share, deviation, treated, group_numbers)
    if worth < FEWEST_GROUPS or error is None or error <= _ROUNDING * float(np.abs(outcome).max()):
        return Estimate(effect, None, None, mean, mean - effect, worth)
    half = float(t.ppf(0.975, worth - 1)) * error
    return Estimate(effect, effect - half, effect + half, mean, mean - effect, worth)


def effective_groups(share: Floats, deviation: Floats, treated: Bools, groups: Ints) -> float:
    """Return the number of equal groups that the groups (n,) are worth (Carter, Schnepel & Steigerwald 2017).

    This is the squared sum of each group's expected contribution to the variance, over the sum of their squares.
    Deviations within a group correlate as much as they do on average in the data (Imbens & Kolesár 2016).
    """
    sizes = np.bincount(groups)
    pairs = float((sizes**2 - sizes).sum())
    variance = float((deviation**2).mean())
    together = float((np.bincount(groups, deviation) ** 2).sum() - (deviation**2).sum())
    correlation = min(max(together / pairs / variance, 0.0), 1.0) if pairs and variance else 0.0
    alone = np.bincount(groups, share**2)
    jointly = np.bincount(groups, np.where(treated, share, -share)) ** 2
    added = (1 - correlation) * alone + correlation * jointly
    of_squares = float((added**2).sum())
    return float(added.sum() ** 2 / of_squares) if of_squares else 0.0


def _jackknife_error(share: Floats, deviation: Floats, treated: Bools, groups: Ints) -> float | None:
    """Return the standard error from leaving out each group in turn; None if one group is all of a side."""
    without = []
    for mask, sign in ((treated, 1.0), (~treated, -1.0)):
        shares = np.bincount(groups[mask], share[mask], minlength=groups.max() + 1)
        if shares.max() > 1 - 1e-9:
            return None
        sums = np.bincount(groups[mask], (share * deviation)[mask], minlength=groups.max() + 1)
        without.append(-sign * sums / (1 - shares))  # the deviations of a side have mean 0
    change = without[0] + without[1]
    n = len(change)
    return math.sqrt(float(((change - change.mean()) ** 2).sum()) * (n - 1) / n)


def too_alike(outcome: Floats, treated: Bools) -> str | None:
    """Return why the values of one side are too similar to estimate their variance; None if they are not.

    A variance from few distinct values is close to 0 by chance, and the interval of identical values has no width.
    """
    for mask, side in ((treated, "with an answer"), (~treated, "without")):
        values, counts = np.unique(outcome[mask], return_counts=True)
        if (n_others := int(counts.sum() - counts.max())) < FEWEST_OTHERS:
            return (
                f"of the {counts.sum():,} searches {side} all but {n_others} have the value "
                f"{float(values[counts.argmax()]):.4g}: {FEWEST_OTHERS} others are needed at least"
            )
    return None


def match(propensity: Floats, treated: Bools, seed: int = 0) -> Matches:
    """Match one untreated unit to each treated one, nearest in the logit of propensity, without reuse.

    The treated draw in random order; a match is within .2 standard deviations of the logit (Austin 2011).
    """
    logit = log_odds(propensity)
    caliper = _CALIPER_SD * logit.std()
    free = sorted(zip(logit[~treated].tolist(), np.flatnonzero(~treated).tolist(), strict=True))
    pairs = []
    for row in np.random.default_rng(seed).permutation(np.flatnonzero(treated)).tolist():
        place = bisect.bisect(free, (logit[row],))
        near = [
            neighbour
            for neighbour in (place - 1, place)
            if 0 <= neighbour < len(free) and abs(free[neighbour][0] - logit[row]) <= caliper
        ]
        if near:
            best = min(near, key=lambda neighbour: abs(free[neighbour][0] - logit[row]))
            pairs.append((row, free.pop(best)[1]))
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return Matches(both[:, 0], both[:, 1])


def matched(outcome: Floats, matches: Matches) -> Estimate | None:
    """Return the mean difference within pairs, without an interval; None for fewer than two pairs.

    The usual standard error of pairs treats the matches as fixed and is too small. With good overlap and linear
    confounding, its 95% intervals held the truth in 76% of cases (see Abadie & Imbens 2006).
    """
    if len(matches.treated) < 2:
        return None
    means = float(outcome[matches.treated].mean()), float(outcome[matches.untreated].mean())
    return Estimate(means[0] - means[1], None, None, *means)


def log_odds(propensity: Floats) -> Floats:
    """Return the logit, (n,)."""
    found: Floats = np.log(propensity / (1 - propensity))
    return found


def spread_within(values: Floats, treated: Bools) -> Floats:
    """Return the standard deviations that differences are measured in (Austin 2009), (d,); 0 for a constant."""
    pooled = np.sqrt((values[treated].var(axis=0) + values[~treated].var(axis=0)) / 2)
    overall = values.std(axis=0)
    is_constant = overall <= 1e-8 * np.maximum(1.0, np.abs(values).max(axis=0))
    pooled = np.where(pooled > 1e-8 * overall, pooled, overall)  # constant on each side, but not the same
    found: Floats = np.where(is_constant, 0.0, pooled)
    return found


def standardised_differences(
    values: Floats, treated: Bools, weight: Floats | None = None, spread: Floats | None = None
) -> Floats:
    """Return differences of weighted means over the standard deviation before weighting (Austin 2009), (d,).

    A constant has 0. A weight of 0 leaves a unit out. `spread` (d,) is `spread_within` of these values unless given.
    """
    weight = np.ones(len(treated)) if weight is None else weight
    spread = spread_within(values, treated) if spread is None else spread
    means = [np.average(values[mask], axis=0, weights=weight[mask]) for mask in (treated, ~treated)]
    differences: Floats = np.divide(means[0] - means[1], spread, out=np.zeros_like(spread), where=spread > 0)
    return differences


def e_value(estimate: Estimate) -> tuple[float, float] | None:
    """Return how strong a hidden cause must be to explain the effect away, as a risk ratio with treatment and outcome.

    The two values are for the estimate and for the end of its interval nearer to no effect (VanderWeele & Ding 2017),
    from the ratio of the means; 1 means no hidden cause is needed. None if there is no interval, or the means have no
    ratio.
    """
    if estimate.low is None or estimate.high is None:
        return None
    near = estimate.low if estimate.value > 0 else estimate.high
    excludes_none = estimate.low > 0 or estimate.high < 0
    without = [estimate.treated - effect for effect in (estimate.value, near if excludes_none else 0.0)]
    if estimate.treated <= 0 or min(without) <= 0:
        return None
    ratios = [max(estimate.treated / mean, mean / estimate.treated) for mean in without]
    values = [float(ratio + np.sqrt(ratio * (ratio - 1))) for ratio in ratios]
    return values[0], values[1]
