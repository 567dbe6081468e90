"""The effect of an answer on users' actions on the results below it, as opposed to a difference of the queries.

The paper finds fewer clicks on searches with an answer. Here, searches with an answer are compared with searches that
could have had one, by properties of query and user that were known before anything was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from qilin_rag.analysis import causal
from qilin_rag.analysis.causal import FEWEST_GROUPS, Estimate, Matches
from qilin_rag.analysis.covariates import Covariates, covariates_of, group_by_user
from qilin_rag.analysis.functions import Bools, Floats, Functions, Ints, distinct_columns
from qilin_rag.analysis.log import Log
from qilin_rag.analysis.nuisance import Nuisances, fit_nuisances, used_names
from qilin_rag.analysis.overlap import (
    FEWEST,
    LARGEST_BALANCED,
    PROPENSITY,
    Difference,
    GroupsCompared,
    compare,
    refuse_groups,
)
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import stage
from qilin_rag.core.types import Frozen

_MOST_LISTED, _FEWEST_LISTED = 80, 20
_MOST_NAMED = 5


class Effect(Frozen):
    """The effect on one outcome: the raw difference, within matched pairs, and doubly robust.

    The figures are about the `n_compared` searches with an answer whose propensity is at most .9.

    Attributes:
        refused: Why there is no figure.
        no_interval: Why there is a figure without an interval.
        not_balanced: The functions of covariates that still differ most.
        effective_others: The number of equal searches without an answer that the weighted ones are worth (Kish).
        effective_users: The number of equal users that the searches are worth.
    """

    outcome: str
    of: str
    n_answered: int
    n_others: int
    naive: Estimate
    matched: Estimate | None
    n_pairs: int
    doubly_robust: Estimate | None
    n_compared: int
    effective_others: float | None
    effective_users: float | None
    refused: str | None
    no_interval: str | None
    is_balanced: bool
    not_balanced: list[str]
    e_value: float | None
    e_value_of_interval: float | None


class Balance(Frozen):
    """Standardised mean differences of one function of covariates: raw, weighted, and matched."""

    covariate: str
    before: float
    weighted: float | None
    matched: float | None


class DqaEffect(Frozen):
    """The effects within one population of searches.

    Attributes:
        balance: The covariates, and those of their functions that differ most, of `n_functions` checked.
        dropped: Why a covariate was left out.
        adjusted_for: The functions that the models chose.
        is_balanced: Whether all searches are balanced after weighting.
        largest_imbalance: The largest difference after weighting; None without weights.
    """

    population: str
    n_answered: int
    n_others: int
    n_users: int
    propensity_quartiles: dict[str, list[float]]
    largest_imbalance: float | None
    is_balanced: bool
    n_functions: int
    adjusted_for: list[str]
    dropped: dict[str, str]
    effects: list[Effect]
    balance: list[Balance]


def dqa_effects(
    log: Log,
    users: pa.Table | None,
    seed: int = 0,
    only: Collection[str] | None = None,
    outcomes: Outcomes | None = None,
) -> list[DqaEffect]:
    """Estimate the effects of an answer among the rows of the table dqa, and among all searches if these differ.

    Args:
        log: The searches.
        users: The features of the users, by `user_idx` ascending.
        seed: The seed of the folds, the matching, and the dimensions of the text.
        only: The names of the outcomes; None takes all.
        outcomes: Returns the outcomes of rows of the log; the first one is known for all. Default: `outcomes_of`.

    Raises:
        UsageError: if neither population has enough searches with and without an answer.
    """
    searches = log.shown.is_search & (log.n_results > 0)
    populations = {"rows of the table dqa": searches & log.is_dqa, "all searches": searches}
    if (searches == populations["rows of the table dqa"]).all():
        del populations["all searches"]  # the same searches
    from threadpoolctl import threadpool_limits

    effects = []
    # The matrices are small: more threads of the algebra take longer than one.
    with threadpool_limits(1, "blas"), stage("populations", len(populations)) as advance:
        for name, chosen in populations.items():
            answered = int((chosen & log.shown.answered).sum())
            if min(answered, int(chosen.sum()) - answered) >= FEWEST:
                effects.append(_effect(log, users, np.flatnonzero(chosen), name, seed, only, outcomes or outcomes_of))
            advance()
    if not effects:
        n = int((searches & log.shown.answered).sum())
        raise UsageError(
            f"{n} searches with an answer and {int(searches.sum()) - n} without: {FEWEST} of each are needed at least"
        )
    return effects


class _Part(NamedTuple):
    """Searches with the same known outcomes, and their comparison; only a refusal if they can't be compared."""

    here: Ints
    functions: Functions
    nuisances: Nuisances | None
    comparison: GroupsCompared | None
    matches: Matches | None
    refusal: str | None


def _effect(
    log: Log,
    users: pa.Table | None,
    rows: Ints,
    population: str,
    seed: int,
    only: Collection[str] | None,
    outcomes_of_rows: Outcomes,
) -> DqaEffect:
    treated: Bools = log.shown.answered[rows]
    groups = group_by_user(log, rows)
    covariates = covariates_of(log, users, rows, seed)
    outcomes = [outcome for outcome in outcomes_of_rows(log, rows) if only is None or outcome.name in only]
    parts: dict[bytes, list[int]] = {}
    for number, outcome in enumerate(outcomes):
        parts.setdefault(outcome.chosen.tobytes(), []).append(number)
    effects: dict[int, Effect] = {}
    compared: list[_Part] = []
    with stage("groups of outcomes", len(parts)) as advance:
        for places in parts.values():
            same_searches = [outcomes[number] for number in places]
            part = _compared(covariates, same_searches, treated, groups, seed)
            compared.append(part)
            effects |= {
                number: _of_outcome(outcome, column, part, treated, groups)
                for column, (number, outcome) in enumerate(zip(places, same_searches, strict=True))
            }
            advance()
    everything = compared[0]  # the first outcome is known for all searches
    comparison, nuisances = everything.comparison, everything.nuisances
    quartiles = {
        name: np.percentile(nuisances.propensity[mask], [0, 25, 50, 75, 100]).tolist()
        for name, mask in (("answered", treated), ("others", ~treated))
        if nuisances is not None
    }
    differences = comparison.differences if comparison else _unweighted(everything.functions, treated)
    weighted = [abs(difference.weighted) for difference in differences if difference.weighted is not None]
    return DqaEffect(
        population=population,
        n_answered=int(treated.sum()),
        n_others=int((~treated).sum()),
        n_users=len(np.unique(groups)),
        propensity_quartiles=quartiles,
        largest_imbalance=max(weighted, default=None),
        is_balanced=effects[0].is_balanced,
        n_functions=len(differences),
        adjusted_for=used_names(everything.functions, nuisances.chosen) if nuisances else [],
        dropped=covariates.dropped,
        effects=[effects[number] for number in range(len(outcomes))],
        balance=_listed(
            everything, differences, [outcomes[number].name for number in next(iter(parts.values()))], treated
        ),
    )


def _compared(covariates: Covariates, outcomes: list[Outcome], treated: Bools, groups: Ints, seed: int) -> _Part:
    """Fit the models of outcomes that are known for the same searches, and make the searches comparable."""
    rows_known = np.flatnonzero(outcomes[0].chosen)
    values, treated, groups = covariates.values[rows_known], treated[rows_known], groups[rows_known]
    kept_columns, _ = distinct_columns(covariates.names, values)
    functions = Functions(
        [covariates.names[column] for column in kept_columns], values[:, kept_columns], covariates.latent
    )
    if refusal := refuse_groups(treated, groups):
        return _Part(rows_known, functions, None, None, None, refusal)
    known_outcomes = np.column_stack([outcome.values[rows_known] for outcome in outcomes])
    nuisances = fit_nuisances(functions, treated, known_outcomes, groups, seed)
    comparison = compare(functions, nuisances, [outcome.name for outcome in outcomes], treated, groups)
    if comparison.refusal:
        return _Part(rows_known, functions, nuisances, comparison, None, comparison.refusal)
    rows = np.flatnonzero(comparison.kept)
    pairs = causal.match(nuisances.propensity[rows], treated[rows], seed)
    matches = Matches(rows[pairs.treated], rows[pairs.untreated])
    return _Part(rows_known, functions, nuisances, comparison, matches, None)


def _of_outcome(outcome: Outcome, column: int, part: _Part, treated: Bools, groups: Ints) -> Effect:
    in_part, comparison = part.here, part.comparison
    values, treated, groups = outcome.values[in_part], treated[in_part], groups[in_part]
    robust, matched, no_interval = None, None, None
    if part.nuisances and comparison and part.matches:
        compared_rows = np.flatnonzero(comparison.kept)
        robust = causal.doubly_robust(
            values[compared_rows],
            part.nuisances.predicted[compared_rows, column],
            comparison.weight[compared_rows],
            treated[compared_rows],
            groups[compared_rows],
        )
        matched = causal.matched(values, part.matches)
        no_interval = causal.too_alike(values[compared_rows], treated[compared_rows]) or _too_few(robust)
        if no_interval:
            robust = robust._replace(low=None, high=None)
    imbalances = _left(comparison) if comparison and not part.refusal else []
    e_value = causal.e_value(robust) if robust else None
    return Effect(
        outcome=outcome.name,
        of=outcome.of,
        n_answered=int(treated.sum()),
        n_others=int((~treated).sum()),
        naive=causal.naive(values, treated, groups),
        matched=matched,
        n_pairs=len(part.matches.treated) if part.matches else 0,
        doubly_robust=robust,
        n_compared=comparison.n_treated if comparison and not part.refusal else 0,
        effective_others=comparison.effective if comparison and not part.refusal else None,
        effective_users=robust.effective_groups if robust else None,
        refused=part.refusal,
        no_interval=no_interval,
        is_balanced=robust is not None and not imbalances,
        not_balanced=imbalances[:_MOST_NAMED],
        e_value=e_value[0] if e_value else None,
        e_value_of_interval=e_value[1] if e_value else None,
    )


def _too_few(robust: Estimate) -> str | None:
    if robust.low is not None:
        return None
    if (robust.effective_groups or 0) >= FEWEST_GROUPS:
        return "the difference is the same for all users"
    return (
        f"the searches are worth those of {robust.effective_groups or 0:.1f} equal users: {FEWEST_GROUPS} are needed "
        "at least"
    )


def _left(comparison: GroupsCompared) -> list[str]:
    """Return the functions of covariates that still differ, the worst first."""
    left = [each for each in comparison.differences if abs(each.weighted or 0.0) > LARGEST_BALANCED]
    left += [each for each in comparison.beyond_chance if each not in left]
    return [f"{each.name} {each.weighted:+.2f}" for each in sorted(left, key=lambda each: -abs(each.weighted or 0.0))]


def _unweighted(functions: Functions, treated: Bools) -> list[Difference]:
    before = causal.standardised_differences(functions.values.astype(float), treated).tolist()
    return [Difference(name, at, None, None) for name, at in zip(functions.names, before, strict=True)]


def _listed(part: _Part, differences: list[Difference], outcomes: list[str], treated: Bools) -> list[Balance]:
    """Return the covariates and the functions that differ most, before or after weighting, largest first."""
    columns = set(part.functions.names[: part.functions.n_columns])
    of_functions = [each for each in differences if each.name not in columns]
    most = max(_FEWEST_LISTED, _MOST_LISTED - len(columns)) // 2
    by_before = sorted(of_functions, key=lambda each: -abs(each.before))
    listed_names = columns | {each.name for each in [*of_functions[:most], *by_before[:most]]}
    listed = [each for each in differences if each.name in listed_names]
    matched: list[float | None] = [None] * len(listed)
    if part.nuisances and part.matches and len(part.matches.treated) > 1:
        scores = {f"predicted {name}": each for name, each in zip(outcomes, part.nuisances.predicted.T, strict=True)}
        scores[PROPENSITY] = causal.log_odds(part.nuisances.propensity)
        values = np.column_stack(
            [scores[each.name] if each.function is None else part.functions.take([each.function]) for each in listed]
        )
        both = np.concatenate(part.matches)
        spread = causal.spread_within(values, treated)
        matched = causal.standardised_differences(values[both], treated[both], spread=spread).tolist()
    return [
        Balance(covariate=each.name, before=each.before, weighted=each.weighted, matched=matched_difference)
        for each, matched_difference in zip(listed, matched, strict=True)
    ]


class Outcome(NamedTuple):
    """Values (n,) of the searches that are `chosen` (n,); `of` describes which these are."""

    name: str
    of: str
    values: Floats
    chosen: Bools


Outcomes = Callable[[Log, Ints], list[Outcome]]
"""A function of a log and rows of it that returns the outcomes of these rows."""


def outcomes_of(log: Log, rows: Ints) -> list[Outcome]:
    """Return the outcomes of these searches.

    The first click's rank exists only for searches with a click; whether there is one is another outcome.
    """
    all_of_them = np.ones(len(rows), bool)
    clicks = log.n_clicks[rows].astype(float)
    n_engaged = np.bincount(
        log.shown.request, log.shown.actions[:, 1:].any(axis=1) & log.clicked, minlength=len(log.shown)
    )
    candidates = [
        ("clicks", "all", clicks, all_of_them),
        ("any click", "all", (clicks > 0).astype(float), all_of_them),
        ("CTR", "all", clicks / log.n_results[rows], all_of_them),
        ("browsing depth", "position known", log.depth[rows].astype(float), log.depth[rows] >= 0),
        ("first click rank", "with a click", log.first_click[rows].astype(float), log.first_click[rows] >= 0),
        ("any like, collect, share or comment", "all", (n_engaged[rows] > 0).astype(float), all_of_them),
    ]
    return known_on_both_sides([Outcome(*candidate) for candidate in candidates], log.shown.answered[rows])


def known_on_both_sides(outcomes: Sequence[Outcome], treated: Bools) -> list[Outcome]:
    """Return the outcomes that are known for enough searches with and without an answer."""
    return [
        outcome
        for outcome in outcomes
        if min((treated & outcome.chosen).sum(), (~treated & outcome.chosen).sum()) >= FEWEST
    ]
