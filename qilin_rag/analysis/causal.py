"""The effect of a treatment on those who got it, from data that nobody randomised: matching and double robustness.

A propensity model says how likely each unit was treated, given what is known of it; outcome models say what untreated
units would do (`nuisance`). Weights make the untreated look like the treated (`overlap`).
"""

from __future__ import annotations

import bisect
import math
from typing import NamedTuple

import numpy as np

from qilin_rag.analysis.functions import Bools, Floats, Ints

FEWEST_GROUPS = 5
"""Equal groups that the data must be worth for an interval."""

FEWEST_OTHERS = 5
"""Values unlike the most frequent one that each side must have for an interval."""

_CALIPER_SD = 0.2
_ROUNDING = 1e-9


class Estimate(NamedTuple):
    """An effect in units of the outcome, with its 95% interval; `treated` and `untreated` are the means compared.

    `low` and `high` are None where no interval can be given. `effective_groups`: how many equal groups the data are
    worth, the more unequal the groups the fewer; None of an estimate without a variance.
    """

    value: float
    low: float | None
    high: float | None
    treated: float
    untreated: float
    effective_groups: float | None = None


class Matches(NamedTuple):
    """Rows of pairs, treated and untreated, of nearly the same propensity; the treated without a match are left out."""

    treated: Ints
    untreated: Ints


def naive(outcome: Floats, treated: Bools, groups: Ints) -> Estimate:
    """Return the difference of the means as they are; its interval is of this difference, not of an effect."""
    return doubly_robust(outcome, np.zeros(len(outcome)), np.ones(len(outcome)), treated, groups)


def doubly_robust(outcome: Floats, predicted: Floats, weight: Floats, treated: Bools, groups: Ints) -> Estimate:
    """Estimate the effect on the treated by AIPW with normalised weights (Robins et al. 1994; Mercatanti & Li 2014).

    Right where either `predicted` or `weight` is. The interval is by the jackknife over groups, with the t
    distribution of as many degrees of freedom as the groups are worth (`effective_groups`), less one.

    Args:
        outcome: (n,).
        predicted: What each unit would do untreated, (n,), by models that did not see its group.
        weight: 1 of the treated; of the others what makes them look like the treated, such as their odds, (n,).
        treated: (n,).
        groups: Units that are no independent evidence, (n,).
    """
    from scipy.stats import t

    residual = outcome - predicted
    share = np.where(treated, weight / weight[treated].sum(), weight / weight[~treated].sum())
    means = [float(share[mask] @ residual[mask]) for mask in (treated, ~treated)]
    effect = means[0] - means[1]
    mean = float(outcome[treated].mean())
    deviation = residual - np.where(treated, *means)
    _, of = np.unique(groups, return_inverse=True)
    worth = effective_groups(share, deviation, treated, of)
    error = _jackknife_error(share, deviation, treated, of)
    if worth < FEWEST_GROUPS or error is None or error <= _ROUNDING * float(np.abs(outcome).max()):
        return Estimate(effect, None, None, mean, mean - effect, worth)
    half = float(t.ppf(0.975, worth - 1)) * error
    return Estimate(effect, effect - half, effect + half, mean, mean - effect, worth)


def effective_groups(share: Floats, deviation: Floats, treated: Bools, of: Ints) -> float:
    """Return how many equal groups the groups `of` (n,) are worth (Carter, Schnepel & Steigerwald 2017).

    The squared sum of what each group is expected to add to the variance, over the sum of squares; the deviations
    within a group go together as much as they do on average in the data (Imbens & Kolesár 2016).
    """
    sizes = np.bincount(of)
    pairs = float((sizes**2 - sizes).sum())
    variance = float((deviation**2).mean())
    together = float((np.bincount(of, deviation) ** 2).sum() - (deviation**2).sum())
    correlation = min(max(together / pairs / variance, 0.0), 1.0) if pairs and variance else 0.0
    alone = np.bincount(of, share**2)
    jointly = np.bincount(of, np.where(treated, share, -share)) ** 2
    added = (1 - correlation) * alone + correlation * jointly
    of_squares = float((added**2).sum())
    return float(added.sum() ** 2 / of_squares) if of_squares else 0.0


def _jackknife_error(share: Floats, deviation: Floats, treated: Bools, of: Ints) -> float | None:
    """The standard error by leaving each group out in turn; None if one group is all of a side."""
    without = []
    for mask, sign in ((treated, 1.0), (~treated, -1.0)):
        shares = np.bincount(of[mask], share[mask], minlength=of.max() + 1)
        if shares.max() > 1 - 1e-9:
            return None
        sums = np.bincount(of[mask], (share * deviation)[mask], minlength=of.max() + 1)
        without.append(-sign * sums / (1 - shares))  # the deviations of a side have a mean of 0
    change = without[0] + without[1]
    n = len(change)
    return math.sqrt(float(((change - change.mean()) ** 2).sum()) * (n - 1) / n)


def too_alike(outcome: Floats, treated: Bools) -> str | None:
    """Say why the values of one side are too much alike to tell how much they vary; None if they are not.

    A variance of few other values is close to 0 by chance, and the interval of none has no width at all.
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
    """Match one untreated unit to each treated one, nearest in the logit of propensity, none used twice.

    The treated draw in random order; a match lies within .2 standard deviations of the logit (Austin 2011).
    """
    logit = log_odds(propensity)
    caliper = _CALIPER_SD * logit.std()
    free = sorted(zip(logit[~treated].tolist(), np.flatnonzero(~treated).tolist(), strict=True))
    pairs = []
    for row in np.random.default_rng(seed).permutation(np.flatnonzero(treated)).tolist():
        place = bisect.bisect(free, (logit[row],))
        near = [at for at in (place - 1, place) if 0 <= at < len(free) and abs(free[at][0] - logit[row]) <= caliper]
        if near:
            best = min(near, key=lambda at: abs(free[at][0] - logit[row]))
            pairs.append((row, free.pop(best)[1]))
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return Matches(both[:, 0], both[:, 1])


def matched(outcome: Floats, matches: Matches) -> Estimate | None:
    """Return the mean difference within pairs, without an interval; None of fewer than two pairs.

    The usual standard error of the pairs takes the matches for fixed, and does not hold what it says: with good
    overlap and linear confounding its 95% intervals held the truth in 76% (Abadie & Imbens 2006 say why).
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
    """Return the standard deviations that differences are measured in (Austin 2009), (d,); 0 of a constant."""
    pooled = np.sqrt((values[treated].var(axis=0) + values[~treated].var(axis=0)) / 2)
    overall = values.std(axis=0)
    is_constant = overall <= 1e-8 * np.maximum(1.0, np.abs(values).max(axis=0))
    pooled = np.where(pooled > 1e-8 * overall, pooled, overall)  # constant on each side, but not the same
    found: Floats = np.where(is_constant, 0.0, pooled)
    return found


def standardised_differences(
    values: Floats, treated: Bools, weight: Floats | None = None, spread: Floats | None = None
) -> Floats:
    """Return differences of weighted means over the standard deviation before (Austin 2009), (d,); 0 of a constant.

    A weight of 0 leaves a unit out. `spread` (d,) is `spread_within` of these values unless given.
    """
    weight = np.ones(len(treated)) if weight is None else weight
    spread = spread_within(values, treated) if spread is None else spread
    means = [np.average(values[mask], axis=0, weights=weight[mask]) for mask in (treated, ~treated)]
    found: Floats = np.divide(means[0] - means[1], spread, out=np.zeros_like(spread), where=spread > 0)
    return found


def e_value(estimate: Estimate) -> tuple[float, float] | None:
    """Return how strong a hidden cause must be to explain the effect away, as a risk ratio with treatment and outcome.

    For the estimate and for the end of its interval nearer to no effect (VanderWeele & Ding 2017), of the ratio of the
    means; 1 is nothing. None if there is no interval, or if the means have no ratio.
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
