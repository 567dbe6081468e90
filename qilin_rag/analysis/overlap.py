"""Comparability of searches with and without an answer: trimming, calibrated odds, balance, and refusals.

Treated searches with a propensity over .9 have almost no comparable searches. They and the untreated ones like them are
left out (Crump, Hotz, Imbens & Mitnik 2009, for the side that matters for an effect on the treated). The weights of the
untreated are their odds, changed as little as needed so that functions of the covariates differ by at most .1 standard
deviations (calibration: Deville & Särndal 1992; Hainmueller 2012, with tolerances).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from qilin_rag.analysis.causal import FEWEST_GROUPS, log_odds, spread_within, standardised_differences
from qilin_rag.analysis.functions import Bools, Floats, Function, Functions, Ints
from qilin_rag.analysis.nuisance import Nuisances
from qilin_rag.core.stats import worth_of

LARGEST_BALANCED = 0.1
"""The largest standardised difference of a balanced function of covariates (Austin 2009)."""

LARGEST_PROPENSITY = 0.9
FEWEST = 30
LEAST_KEPT = 0.5
LARGEST_WEIGHT = 0.1
LARGEST_OF_PROPENSITY = 0.25
"""The largest standardised difference of the propensity for reliable weighted figures (Rubin 2001)."""

PROPENSITY = "propensity (log odds)"
_LEAST_ESS_KEPT = 0.5
_ROUNDS = 8
_STEPS = 400
_OF_MODELS, _OF_OTHERS, _SLACK = 0.02, 0.09, 0.005
_CHANCE = 0.05


class Difference(NamedTuple):
    """Standardised differences of one function: raw, and weighted (None if there are no weights)."""

    name: str
    before: float
    weighted: float | None
    function: Function | None


class GroupsCompared(NamedTuple):
    """The searches to compare, and their weights.

    Attributes:
        kept: Whether each row is not trimmed, (n,).
        weight: The weights, (n,): 0 for the trimmed, 1 for the treated.
        effective: The number of equal untreated searches that the weighted ones are worth (Kish).
        differences: All checked functions, the largest first.
        beyond_chance: Products of thresholds that still differ by more than chance explains.
        refusal: Why there is no figure, in one sentence; None if there is one.
    """

    kept: Bools
    weight: Floats
    n_treated: int
    n_untreated: int
    effective: float
    differences: list[Difference]
    beyond_chance: list[Difference]
    refusal: str | None


def compare(
    functions: Functions, nuisances: Nuisances, names: list[str], treated: Bools, groups: Ints
) -> GroupsCompared:
    """Trim, weight and check the searches; `names` are those of the predicted outcomes."""
    propensity = nuisances.propensity
    is_kept = propensity <= LARGEST_PROPENSITY
    n_kept = int((is_kept & treated).sum()), int((is_kept & ~treated).sum())
    checks = _Checks(functions, nuisances, names, treated)
    if refusal := _refuse_trimmed(propensity, treated, n_kept):
        nothing = np.zeros(len(treated))
        return GroupsCompared(is_kept, nothing, *n_kept, 0.0, checks.differences(None), [], refusal)
    odds = np.where(is_kept & ~treated, propensity / (1 - propensity), 0.0)
    weight = _calibrated(checks, np.where(treated, is_kept.astype(float), odds))
    effective = worth_of(weight[~treated])
    differences = checks.differences(weight)
    refusal = _refuse_weighted(weight[~treated], effective, groups[~treated], differences)
    return GroupsCompared(
        is_kept, weight, *n_kept, effective, differences, checks.beyond_chance(weight, effective), refusal
    )


def refuse_groups(treated: Bools, groups: Ints) -> str | None:
    """Return why the users are too few to compare; None if they are not."""
    for mask, side in ((treated, "with an answer"), (~treated, "without")):
        if (n := len(np.unique(groups[mask]))) < FEWEST_GROUPS:
            return f"the searches {side} are of {n} users: {FEWEST_GROUPS} are needed at least"
    return None


def _refuse_trimmed(propensity: Floats, treated: Bools, n_kept: tuple[int, int]) -> str | None:
    n_treated = int(treated.sum())
    if n_kept[0] < LEAST_KEPT * n_treated:
        return (
            f"no overlap: {n_treated - n_kept[0]:,} of {n_treated:,} searches with an answer have a propensity over "
            f"{LARGEST_PROPENSITY}, so that there is nothing to compare them with"
        )
    if min(n_kept) < FEWEST:
        return (
            f"too little overlap: {n_kept[0]:,} searches with an answer and {n_kept[1]:,} without have a propensity of "
            f"at most {LARGEST_PROPENSITY}; {FEWEST} of each are needed at least"
        )
    return None


def _refuse_weighted(weight: Floats, effective: float, groups: Ints, differences: list[Difference]) -> str | None:
    if effective < FEWEST:
        return (
            f"too little overlap: the {int((weight > 0).sum()):,} weighted searches without an answer are worth "
            f"{effective:.0f} (Kish); {FEWEST} are needed at least"
        )
    if (largest := float(weight.max() / weight.sum())) > LARGEST_WEIGHT:
        return f"too little overlap: one search without an answer has {largest:.0%} of all weight"
    [of_propensity] = [each.weighted or 0.0 for each in differences if each.name == PROPENSITY]
    if abs(of_propensity) > LARGEST_OF_PROPENSITY:
        return (
            "too little overlap: after weighting the propensities of the two sides still differ by "
            f"{abs(of_propensity):.2f} standard deviations; {LARGEST_OF_PROPENSITY} are the most"
        )
    return None


class _Checks:
    """Standardised differences of functions, of products of two covariates, and of the models' predictions."""

    def __init__(self, functions: Functions, nuisances: Nuisances, names: list[str], treated: Bools) -> None:
        self.functions, self.treated = functions, treated
        self.chosen = [*dict.fromkeys(nuisances.chosen)]
        scores = np.column_stack([log_odds(nuisances.propensity), nuisances.predicted])
        self.model = np.hstack([scores, functions.take(self.chosen)])
        self.predicted_names = [f"predicted {name}" for name in names]
        self.model_names = [PROPENSITY, *self.predicted_names]
        self.model_names += [functions.name(each) for each in self.chosen]
        self.model_functions: list[Function | None] = [*[None] * scores.shape[1], *self.chosen]
        self.model_spread = spread_within(self.model, treated)
        self.single_spread = spread_within(functions.values.astype(np.float64), treated)
        self.before = {most: self._products(np.ones(len(treated)), most) for most in (functions.n_columns, None)}

    def _products(self, weight: Floats, most: int | None) -> tuple[Floats, Floats, Bools]:
        """Return differences of the means of products, their spreads, and which are checked, (p, p)."""
        sides = [self.functions.moments(mask & (weight > 0), weight, most) for mask in (self.treated, ~self.treated)]
        spread = np.sqrt((sides[0].variance + sides[1].variance) / 2)
        return sides[0].mean - sides[1].mean, spread, self.functions.pairs(most) & (spread > 0.1)

    def differences(self, weight: Floats | None) -> list[Difference]:
        """Return all differences except products of thresholds, largest first; chosen functions count once."""
        functions, n_columns = self.functions, self.functions.n_columns
        everywhere = np.ones(len(self.treated))
        by_name: dict[str, Difference] = {}
        rows = [(name, function) for name, function in zip(self.model_names, self.model_functions, strict=True)]
        values = [
            standardised_differences(self.model, self.treated, each, self.model_spread)
            for each in (everywhere, weight)
            if each is not None
        ]
        rows += [(name, Function(row)) for row, name in enumerate(functions.names)]
        singles = [
            standardised_differences(self.functions.values.astype(np.float64), self.treated, each, self.single_spread)
            for each in (everywhere, weight)
            if each is not None
        ]
        gap, spread, allowed = self.before[n_columns]
        pairs = [Function(int(i), int(j)) for i, j in np.argwhere(allowed)]
        rows += [(functions.name(pair), pair) for pair in pairs]
        products = [gap[allowed] / spread[allowed]]
        if weight is not None:
            products.append(self._products(weight, n_columns)[0][allowed] / spread[allowed])
        columns = [np.concatenate(parts).tolist() for parts in zip(values, singles, products, strict=True)]
        for row, (name, function) in enumerate(rows):
            weighted = columns[1][row] if weight is not None else None
            by_name.setdefault(name, Difference(name, columns[0][row], weighted, function))
        return sorted(by_name.values(), key=lambda each: -abs(each.before if each.weighted is None else each.weighted))

    def beyond_chance(self, weight: Floats, effective: float) -> list[Difference]:
        """Return products of two functions that differ by more than .1 and than chance (Bonferroni)."""
        gap, spread, allowed = self.before[None]
        now = self._products(weight, None)[0]
        by_chance = NormalDist().inv_cdf(1 - _CHANCE / 2 / max(1, allowed.sum()))
        n_treated = float((weight[self.treated] > 0).sum())
        most = max(LARGEST_BALANCED, by_chance * float(np.sqrt(1 / n_treated + 1 / effective)))
        size = np.divide(np.abs(now), spread, out=np.zeros_like(spread), where=allowed)
        size = np.where(allowed, size, 0)
        differences = []
        for i, j in np.argwhere(size > most):
            pair = Function(int(i), int(j))
            place = i, j
            differences.append(
                Difference(
                    self.functions.name(pair),
                    float(gap[place] / spread[place]),
                    float(now[place] / spread[place]),
                    pair,
                )
            )
        return sorted(differences, key=lambda each: -abs(each.weighted or 0.0))

    def columns(self, differences: list[Difference]) -> tuple[Floats, Floats]:
        """Return the values of these functions over their spreads, (n, k), and their largest differences, (k,)."""
        parts = [
            self.model[:, [self.model_names.index(each.name)]]
            if each.function is None
            else self.functions.take([each.function])
            for each in differences
        ]
        values = np.hstack(parts)
        of_models = set(self.model_names)
        tolerances = np.array([_OF_MODELS if each.name in of_models else _OF_OTHERS for each in differences])
        spread = spread_within(values, self.treated)
        return values[:, spread > 0] / spread[spread > 0], tolerances[spread > 0]


def _calibrated(checks: _Checks, weight: Floats) -> Floats:
    """Return weights that balance as much as possible: the propensity, chosen functions, covariates, all functions.

    Predicted outcomes are not balanced. A row's prediction comes from the other folds and is thus opposed to deviations
    of its own outcome; weights that depend on it would prefer such outcomes. Weights that are worth less than half of
    the original ones are rejected.
    """
    least = _LEAST_ESS_KEPT * worth_of(weight[~checks.treated])
    first = [{PROPENSITY}, set(checks.model_names), set(checks.functions.names[: checks.functions.n_columns])]
    balanced: dict[str, Difference] = {}
    best = weight
    for turn in range(_ROUNDS):
        candidates = [each for each in checks.differences(best) if each.name not in checks.predicted_names]
        unbalanced = {each.name for each in candidates if abs(each.weighted or 0.0) > _OF_OTHERS + _SLACK}
        names = first[turn] if turn < len(first) else unbalanced
        new = {each.name: each for each in candidates if each.name in names and each.name not in balanced}
        if not new and turn >= len(first):
            break
        balanced |= new
        moved = _tilted(*checks.columns(list(balanced.values())), checks.treated, weight, least)
        if moved is None:
            break
        best = moved
    return best


def _tilted(columns: Floats, tolerance: Floats, treated: Bools, weight: Floats, least: float) -> Floats | None:
    """Return the nearest weights, in relative entropy, whose means differ within the tolerance.

    The result is None if there are none that are worth `least`.
    """
    from scipy.optimize import minimize

    if not columns.shape[1]:
        return weight
    is_other = ~treated & (weight > 0)
    gaps = columns[is_other] - np.average(columns[treated], axis=0, weights=weight[treated])
    base = np.log(weight[is_other] / weight[is_other].sum())
    k = gaps.shape[1]

    def tilt(parts: Floats) -> tuple[Floats, float]:
        exponent = gaps @ (parts[:k] - parts[k:]) + base
        powers = np.exp(exponent - (top := exponent.max()))
        total = powers.sum()
        return powers / total, float(top + np.log(total))

    def loss(parts: Floats) -> tuple[float, Floats]:
        shares, value = tilt(parts)
        slope = shares @ gaps
        cost = float(tolerance @ (parts[:k] + parts[k:]))
        return value + cost, np.concatenate([tolerance + slope, tolerance - slope])

    def stop_early(parts: Floats) -> None:
        if worth_of(tilt(parts)[0]) < least / 2:
            raise StopIteration

    solution = minimize(
        loss,
        np.zeros(2 * k),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * (2 * k),
        callback=stop_early,
        options={"maxiter": _STEPS},
    )
    shares, _ = tilt(solution.x)
    if (np.abs(shares @ gaps) - tolerance).max() > _SLACK or worth_of(shares) < least:
        return None
    tilted = np.where(treated, weight, 0.0)
    tilted[is_other] = shares
    return tilted
