"""Flexible models of treatment and of untreated outcomes; each row is predicted by models that never saw its group.

There are two kinds of model. One is penalised and linear in the covariates and in those of their functions that predict
treatment or outcome (double selection: Belloni, Chernozhukov & Hansen 2014). The other is gradient boosting on the
covariates of these functions. Their cross-fitted predictions are averaged with the weights that fit best
(short-stacking: Ahrens, Hansen, Schaffer & Wiemann 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from qilin_rag.analysis.functions import Bools, Floats, Function, Functions, Ints, choose
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import stage

FOLDS = 5
LEAST, MOST = 0.001, 0.999
"""The range that propensities are cut to."""

_MOST_ROWS_A_SIDE = 4000
_TELLS_Z = 2.5
_MOST_TELLING = 6
_BOOSTING = {"max_iter": 25, "learning_rate": 0.15, "max_leaf_nodes": 8, "min_samples_leaf": 20, "l2_regularization": 1}
_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Nuisances(NamedTuple):
    """`propensity` (n,), `predicted` (n, m) untreated outcomes, and the functions that any of the models chose."""

    propensity: Floats
    predicted: Floats
    chosen: list[Function]


def folds(treated: Bools, groups: Ints, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield rows to fit and rows to predict, five times, with no group on both sides."""
    from sklearn.model_selection import StratifiedGroupKFold

    if (n_groups := len(np.unique(groups))) < FOLDS:
        raise UsageError(f"searches of {n_groups} users: {FOLDS} are needed at least")
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with stage("fitting models on four fifths", FOLDS) as advance:
        for fold in splitter.split(np.zeros(len(treated)), treated, groups):
            yield fold
            advance()


def fit_nuisances(functions: Functions, treated: Bools, outcomes: Floats, groups: Ints, seed: int = 0) -> Nuisances:
    """Cross-fit the propensity of treatment, and each outcome of each row without treatment.

    Args:
        functions: The functions of the covariates, n rows.
        treated: Whether each row is treated, (n,).
        outcomes: The outcomes, (n, m).
        groups: Units that are not independent evidence, (n,); no model predicts a group that it was fitted on.
        seed: The seed of the folds, and of the rows for choosing functions if there are many.

    Raises:
        UsageError: if there are fewer than five groups, or one side is in a single fold.
    """
    n, n_outcomes = outcomes.shape
    targets = np.column_stack([treated.astype(float), outcomes])
    linear, boosted = np.zeros((n, n_outcomes + 1)), np.zeros((n, n_outcomes + 1))
    all_chosen: dict[Function, None] = {}
    rng = np.random.default_rng(seed)
    for fit, rest in folds(treated, groups, seed):
        untreated = fit[~treated[fit]]
        if not 0 < len(untreated) < len(fit):
            raise UsageError("a fifth of the users has all searches with an answer, or all without: too few users")
        parts = [fit, *[untreated] * n_outcomes]
        chosen: dict[Function, None] = {}
        telling: set[int] = set()
        for target, rows in zip(targets.T, parts, strict=True):
            rows = _some_of_both(rows, treated, rng)
            chosen |= dict.fromkeys(choose(functions, target[rows], rows))
            telling |= _telling(functions, target[rows], rows)
        telling |= {int(functions.column[place]) for function in chosen for place in function if place >= 0}
        all_chosen |= chosen
        design = functions.take([*map(Function, range(functions.n_columns)), *chosen])
        columns = functions.take([Function(place) for place in sorted(telling)])
        for place, (target, rows) in enumerate(zip(targets.T, parts, strict=True)):
            linear[rest, place] = _linear(design[rows], target[rows], design[rest], is_binary=place == 0)
            boosted[rest, place] = _boosted(columns[rows], target[rows], columns[rest], is_binary=place == 0)
    everybody = np.ones(n, bool)
    stacked = [
        _stacked(linear[:, place], boosted[:, place], targets[:, place], ~treated if place else everybody)
        for place in range(n_outcomes + 1)
    ]
    return Nuisances(
        np.clip(stacked[0], LEAST, MOST), np.column_stack([np.zeros((n, 0)), *stacked[1:]]), list(all_chosen)
    )


def _some_of_both(rows: Ints, treated: Bools, rng: np.random.Generator) -> Ints:
    """Return at most 4,000 treated and 4,000 untreated rows, which are enough to choose functions."""
    sides = [rows[treated[rows]], rows[~treated[rows]]]
    return np.sort(
        np.concatenate(
            [
                side if len(side) <= _MOST_ROWS_A_SIDE else rng.choice(side, _MOST_ROWS_A_SIDE, replace=False)
                for side in sides
            ]
        )
    )


def _telling(functions: Functions, target: Floats, rows: Ints) -> set[int]:
    """Return the covariates most correlated with the target: at most six, each beyond 2.5 standard errors."""
    deviation = target.std()
    if not deviation > 0:
        return set()
    values = functions.values[rows, : functions.n_columns]
    z = np.abs((target - target.mean()) @ values) / deviation / np.sqrt(len(rows))
    return {int(at) for at in np.argsort(-z)[:_MOST_TELLING] if z[at] > _TELLS_Z}


def _linear(fit: Floats, target: Floats, rest: Floats, is_binary: bool) -> Floats:
    from sklearn.linear_model import LogisticRegression, RidgeCV

    centre, deviation = fit.mean(axis=0), fit.std(axis=0)
    deviation = np.where(deviation > 1e-6, deviation, 1.0)
    fit, rest = (fit - centre) / deviation, (rest - centre) / deviation
    if is_binary:
        return _probability(LogisticRegression(C=0.3, max_iter=1000).fit(fit, target), rest)
    predicted: Floats = RidgeCV(alphas=_PENALTIES).fit(fit, target).predict(rest)
    return predicted


def _boosted(fit: Floats, target: Floats, rest: Floats, is_binary: bool) -> Floats:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if not fit.shape[1]:
        return np.full(len(rest), target.mean())
    if is_binary:
        return _probability(HistGradientBoostingClassifier(**_BOOSTING, random_state=0).fit(fit, target), rest)
    predicted: Floats = HistGradientBoostingRegressor(**_BOOSTING, random_state=0).fit(fit, target).predict(rest)
    return predicted


def _probability(model: Any, rest: Floats) -> Floats:
    predicted: Floats = model.predict_proba(rest)[:, 1]
    return predicted


def _stacked(first: Floats, second: Floats, target: Floats, rows: Bools) -> Floats:
    """Return the average of two predictions that is nearest to the target, by least squares over `rows`."""
    apart = (first - second)[rows]
    total = float(apart @ apart)
    share = float(np.clip((target - second)[rows] @ apart / total, 0, 1)) if total > 0 else 1.0
    return share * first + (1 - share) * second


def used_names(functions: Functions, chosen: Sequence[Function]) -> list[str]:
    """Return the names of chosen functions, for people."""
    return [functions.name(function) for function in chosen]
