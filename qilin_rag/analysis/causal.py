"""The effect of a treatment on those who got it, from data that nobody randomised: matching and double robustness.

A propensity model says how likely each unit was treated, given what is known of it; outcome models say what untreated
units would do. Every unit is predicted by models that never saw its group (cross-fitting: Chernozhukov et al. 2018).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.errors import UsageError
from qilin_rag.progress import stage

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FOLDS = 5
_LEAST, _MOST = 0.001, 0.98
_CALIPER_SD = 0.2
_Z95 = 1.959964


class Estimate(NamedTuple):
    """An effect in units of the outcome, with its 95% interval; `treated` and `untreated` are the means compared."""

    value: float
    low: float
    high: float
    treated: float
    untreated: float


class Matches(NamedTuple):
    """Rows of pairs, treated and untreated, of nearly the same propensity; the treated without a match are left out."""

    treated: Ints
    untreated: Ints


def propensities(covariates: Floats, treated: Bools, groups: Ints, seed: int = 0) -> Floats:
    """How likely each unit was treated, (n,), by logistic regression on (n, d) covariates, cross-fitted by group.

    Cut to between .001 and .98, so that no weight is beyond all measure.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.zeros(len(treated))
    for fit, rest in folds(treated, groups, seed):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        model.fit(covariates[fit], treated[fit])
        found[rest] = model.predict_proba(covariates[rest])[:, 1]
    return np.clip(found, _LEAST, _MOST)


def untreated_outcomes(covariates: Floats, outcome: Floats, treated: Bools, groups: Ints, seed: int = 0) -> Floats:
    """What each unit would do untreated, (n,), by ridge regression on the untreated of other groups."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.zeros(len(outcome))
    for fit, rest in folds(treated, groups, seed):
        of_these = fit[~treated[fit]]
        model = make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(covariates[of_these], outcome[of_these])
        found[rest] = model.predict(covariates[rest])
    return found


def folds(treated: Bools, groups: Ints, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Rows to fit on and rows to predict, five times; no group is on both sides."""
    from sklearn.model_selection import StratifiedGroupKFold

    if (n_groups := len(np.unique(groups))) < FOLDS:
        raise UsageError(f"searches of {n_groups} users: {FOLDS} are needed at least")
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with stage("fitting a model on four fifths", FOLDS) as advance:
        for fold in splitter.split(np.zeros(len(treated)), treated, groups):
            yield fold
            advance()


def weights(propensity: Floats, treated: Bools) -> Floats:
    """1 for the treated; for the others the odds, which make them look like the treated."""
    return np.where(treated, 1.0, propensity / (1 - propensity))


def naive(outcome: Floats, treated: Bools, groups: Ints) -> Estimate:
    """The difference of the means as they are."""
    means = outcome[treated].mean(), outcome[~treated].mean()
    influence = np.where(treated, (outcome - means[0]) / treated.mean(), -(outcome - means[1]) / (1 - treated.mean()))
    return _estimate(means[0] - means[1], influence, groups, *means)


def doubly_robust(outcome: Floats, predicted: Floats, propensity: Floats, treated: Bools, groups: Ints) -> Estimate:
    """The effect on the treated by AIPW with normalised weights (Robins et al. 1994; Mercatanti & Li 2014).

    Right where either `predicted` or `propensity` is. `groups` (n,) are units that are no independent evidence.
    """
    weight = weights(propensity, treated)
    residual = outcome - predicted
    influence = np.zeros(len(outcome))
    means = []
    for mask, sign in ((treated, 1), (~treated, -1)):
        share = weight[mask] / weight[mask].sum()
        means.append(float(share @ residual[mask]))
        influence[mask] = sign * len(outcome) * share * (residual[mask] - means[-1])
    effect = means[0] - means[1]
    mean = float(outcome[treated].mean())
    return _estimate(effect, influence, groups, mean, mean - effect)


def match(propensity: Floats, treated: Bools, seed: int = 0) -> Matches:
    """One untreated unit for each treated one, nearest in the logit of propensity, none used twice.

    The treated draw in random order; a match lies within .2 standard deviations of the logit (Austin 2011).
    """
    logit = np.log(propensity / (1 - propensity))
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


def matched(outcome: Floats, matches: Matches, groups: Ints) -> Estimate | None:
    """The mean difference within pairs; None of fewer than two pairs."""
    if len(matches.treated) < 2:
        return None
    means = float(outcome[matches.treated].mean()), float(outcome[matches.untreated].mean())
    differences = outcome[matches.treated] - outcome[matches.untreated]
    effect = means[0] - means[1]
    return _estimate(effect, differences - effect, groups[matches.treated], *means)


def _estimate(effect: float, influence: Floats, groups: Ints, treated: float, untreated: float) -> Estimate:
    """With the normal interval of the influences' mean, groups drawn as one."""
    _, of = np.unique(groups, return_inverse=True)
    sums = np.bincount(of, influence)
    n_groups = len(sums)
    error = float(np.sqrt((sums**2).sum() * n_groups / max(n_groups - 1, 1)) / len(influence))
    return Estimate(float(effect), float(effect) - _Z95 * error, float(effect) + _Z95 * error, treated, untreated)


def standardised_differences(covariates: Floats, treated: Bools, weight: Floats | None = None) -> Floats:
    """Difference of weighted means over the standard deviation before (Austin 2009), (d,); 0 of a constant."""
    weight = np.ones(len(treated)) if weight is None else weight
    means = [np.average(covariates[mask], axis=0, weights=weight[mask]) for mask in (treated, ~treated)]
    pooled = np.sqrt((covariates[treated].var(axis=0) + covariates[~treated].var(axis=0)) / 2)
    pooled = np.where(pooled > 0, pooled, covariates.std(axis=0))  # constant on each side, but not the same
    found: Floats = np.divide(means[0] - means[1], pooled, out=np.zeros_like(pooled), where=pooled > 0)
    return found


def e_value(estimate: Estimate) -> tuple[float, float] | None:
    """How strongly a hidden cause must go with both treatment and outcome to explain the effect away, as risk ratios.

    For the estimate and for the end of its interval nearer to no effect (VanderWeele & Ding 2017), of the ratio of the
    means; 1 is nothing. None where the means have no ratio.
    """
    near = estimate.low if estimate.value > 0 else estimate.high
    excludes_none = estimate.low > 0 or estimate.high < 0
    without = [estimate.treated - effect for effect in (estimate.value, near if excludes_none else 0.0)]
    if estimate.treated <= 0 or min(without) <= 0:
        return None
    ratios = [max(estimate.treated / mean, mean / estimate.treated) for mean in without]
    values = [float(ratio + np.sqrt(ratio * (ratio - 1))) for ratio in ratios]
    return values[0], values[1]
