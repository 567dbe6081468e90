"""Does an answer change what users do with the results below it, or are its queries different ones?

The paper finds fewer clicks where an answer was shown. Here searches with an answer are compared with such as could
have had one: by what is known of the query and the user before anything was shown.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from qilin_rag.analysis import causal
from qilin_rag.analysis.causal import Bools, Estimate, Floats, Ints
from qilin_rag.analysis.covariates import covariates_of, group_by_user
from qilin_rag.analysis.log import Log
from qilin_rag.errors import UsageError
from qilin_rag.progress import stage
from qilin_rag.types import Frozen

FEWEST = 30
LARGEST_BALANCED = 0.1
"""Standardised difference up to which a covariate is taken to be balanced (Austin 2009)."""


class Effect(Frozen):
    """One outcome: the difference as it is, and on searches with an answer within matched pairs and doubly robust."""

    outcome: str
    of: str
    n_answered: int
    n_others: int
    naive: Estimate
    matched: Estimate | None
    n_pairs: int
    doubly_robust: Estimate
    e_value: float | None
    e_value_of_interval: float | None


class Balance(Frozen):
    """Standardised mean differences of one covariate: as it is, weighted, and matched."""

    covariate: str
    before: float
    weighted: float
    matched: float | None


class DqaEffect(Frozen):
    """All that is known of the effect within one population of searches."""

    population: str
    n_answered: int
    n_others: int
    n_users: int
    propensity_quartiles: dict[str, list[float]]
    largest_imbalance: float
    effects: list[Effect]
    balance: list[Balance]


def dqa_effects(log: Log, users: pa.Table | None, seed: int = 0) -> list[DqaEffect]:
    """Among the rows of the table dqa, and among all searches; a UsageError where neither can be analysed."""
    searches = log.shown.is_search & (log.n_results > 0)
    populations = {"rows of the table dqa": searches & log.is_dqa, "all searches": searches}
    found = []
    with stage("populations", len(populations)) as advance:
        for name, chosen in populations.items():
            answered = int((chosen & log.shown.answered).sum())
            if min(answered, int(chosen.sum()) - answered) >= FEWEST:
                found.append(_effect(log, users, np.flatnonzero(chosen), name, seed))
            advance()
    if not found:
        n = int((searches & log.shown.answered).sum())
        raise UsageError(
            f"{n} searches with an answer and {int(searches.sum()) - n} without: {FEWEST} of each are needed at least"
        )
    return found


def _effect(log: Log, users: pa.Table | None, rows: Ints, population: str, seed: int) -> DqaEffect:
    treated: Bools = log.shown.answered[rows]
    groups = group_by_user(log, rows)
    covariates = covariates_of(log, users, rows, seed)
    propensity = causal.propensities(covariates.values, treated, groups, seed)
    matches = causal.match(propensity, treated, seed)
    weight = causal.weights(propensity, treated)
    differences = [
        causal.standardised_differences(covariates.values, treated),
        causal.standardised_differences(covariates.values, treated, weight),
    ]
    has_pairs = len(matches.treated) > 1
    if has_pairs:
        both = np.concatenate([matches.treated, matches.untreated])
        differences.append(causal.standardised_differences(covariates.values[both], treated[both]))
    balance = [
        Balance(covariate=name, before=at[0], weighted=at[1], matched=at[2] if has_pairs else None)
        for name, at in zip(covariates.names, zip(*(each.tolist() for each in differences), strict=True), strict=True)
    ]
    quartiles = {
        name: np.percentile(propensity[mask], [0, 25, 50, 75, 100]).tolist()
        for name, mask in (("answered", treated), ("others", ~treated))
    }
    return DqaEffect(
        population=population,
        n_answered=int(treated.sum()),
        n_others=int((~treated).sum()),
        n_users=len(np.unique(groups)),
        propensity_quartiles=quartiles,
        largest_imbalance=max(abs(each.weighted) for each in balance),
        effects=[
            _of_outcome(name, of, outcome, chosen, covariates.values, propensity, treated, groups, matches, seed)
            for name, of, outcome, chosen in outcomes_of(log, rows)
        ],
        balance=balance,
    )


def _of_outcome(
    name: str,
    of: str,
    outcome: Floats,
    chosen: Bools,
    covariates: Floats,
    propensity: Floats,
    treated: Bools,
    groups: Ints,
    matches: causal.Matches,
    seed: int,
) -> Effect:
    here = np.flatnonzero(chosen)
    predicted = causal.untreated_outcomes(covariates[here], outcome[here], treated[here], groups[here], seed)
    robust = causal.doubly_robust(outcome[here], predicted, propensity[here], treated[here], groups[here])
    both = chosen[matches.treated] & chosen[matches.untreated]
    pairs = causal.Matches(matches.treated[both], matches.untreated[both])
    e_value = causal.e_value(robust)
    return Effect(
        outcome=name,
        of=of,
        n_answered=int(treated[here].sum()),
        n_others=int((~treated[here]).sum()),
        naive=causal.naive(outcome[here], treated[here], groups[here]),
        matched=causal.matched(outcome, pairs, groups),
        n_pairs=len(pairs.treated),
        doubly_robust=robust,
        e_value=e_value[0] if e_value else None,
        e_value_of_interval=e_value[1] if e_value else None,
    )


def outcomes_of(log: Log, rows: Ints) -> list[tuple[str, str, Floats, Bools]]:
    """Name, whose searches, value and mask of each outcome, (n_rows,) each.

    The first click's rank is of searches with a click: whether there is one is itself an outcome.
    """
    all_of_them = np.ones(len(rows), bool)
    clicks = log.n_clicks[rows].astype(float)
    n_engaged = np.bincount(
        log.shown.request, log.shown.actions[:, 1:].any(axis=1) & log.clicked, minlength=len(log.shown)
    )
    found = [
        ("clicks", "all", clicks, all_of_them),
        ("any click", "all", (clicks > 0).astype(float), all_of_them),
        ("CTR", "all", clicks / log.n_results[rows], all_of_them),
        ("browsing depth", "position known", log.depth[rows].astype(float), log.depth[rows] >= 0),
        ("first click rank", "with a click", log.first_click[rows].astype(float), log.first_click[rows] >= 0),
        ("any like, collect, share or comment", "all", (n_engaged[rows] > 0).astype(float), all_of_them),
    ]
    return [each for each in found if each[3].sum() >= 2 * FEWEST and _both_sides(log.shown.answered[rows], each[3])]


def _both_sides(treated: Bools, chosen: Bools) -> bool:
    return bool(min((treated & chosen).sum(), (~treated & chosen).sum()) >= FEWEST)
