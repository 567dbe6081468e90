"""Compare the figures of runs: how certain each is, which is the best, and what is not significantly worse."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from qilin_rag.core.ratings import JudgedComparison
from qilin_rag.core.stats import (
    ALPHA,
    Bounds,
    Clusters,
    Values,
    compare_families,
    detectable_difference,
    holm,
    mean_bounds,
    paired_tests,
    standard_error,
    why_undetectable,
    worth_of,
)
from qilin_rag.core.types import Cost, Frozen, Mark, Status
from qilin_rag.reports.took import FirstAsked, Latency

Kind = Literal["run", "control", "paper"]
_EQUAL = 1e-9  # two sums closer than this are equal
Key = tuple[Hashable, str]
"""The key of a column of figures: block or metric, and the name of the run."""


class Standing(Frozen):
    """How a figure compares with the best of its family.

    `tied`: it is not the best, but not significantly worse. `p` is from the comparison with the best, adjusted for all
    pairs of the family (see `stats.compare_all`): the chance that any run is marked worse although it is as good as the
    truly best is at most .05. `untold`: why no difference can be detected in this pair, so that a tie says nothing.
    """

    best: bool = False
    tied: bool = False
    p: float | None = None
    untold: str | None = None


class Gain(Frozen):
    """The mean difference to a baseline over the `n` questions scored in both.

    `p` and `ci95` come from one test of this comparison alone: the interval excludes 0 if and only if p is at most .05.
    `p_holm` is adjusted for all comparisons with the baseline. `no_interval` says why there is none.
    """

    difference: float
    n: int
    ci95: tuple[float, float] | None
    p: float
    p_holm: float
    no_interval: str | None = None


class Cell(Frozen):
    """One run under one metric.

    `no_interval` says why there is no interval. `best`, `tied`, `p` and `untold` are its standing in its column, or in
    the only row; `in_row` is its standing in one of several rows. `over_none` is the gain over the same LLM without
    notes. `value_unscored_as_zero` counts unscored questions as 0, as the choice of the best does. `likely` marks a
    figure of the paper that most likely is of this retriever. `decimals` is the number of known decimals. `also` lists
    other runs with the same figures.
    """

    value: float | None
    n: int | None = None
    n_unscored: int = 0
    value_unscored_as_zero: float | None = None
    ci95: tuple[float, float] | None = None
    no_interval: str | None = None
    best: bool = False
    tied: bool = False
    p: float | None = None
    untold: str | None = None
    in_row: Standing | None = None
    over_none: Gain | None = None
    likely: bool = False
    decimals: int = 4
    run: str | None = None
    also: list[str] = []


class Block(Frozen):
    """One metric: `cells[row][column]` is None if there is no such run; `kinds` says what each row is.

    `detectable` is the smallest true difference that these questions would show four times in five (the median over the
    comparisons with the best); if there is none, `undetectable` says why. `axes` names rows and columns in flat
    records. `signatures` are those of the columns, if each is a metric of its own.
    """

    metric: str
    signature: str
    signatures: list[str] = []
    rows: list[str]
    kinds: list[Kind]
    columns: list[str]
    cells: list[list[Cell | None]]
    detectable: float | None = None
    undetectable: str | None = None
    axes: tuple[str, str] = ("llm", "retriever")


class Spending(Frozen):
    """The tokens of one run (without cached answers and `uncounted` ones), their cost, and its statuses.

    `statuses` counts questions by status, `marks` counts doubts about answers. `llm` is the label of its row; the label
    is made of `model`, `note`, `prompt` and the settings of its notes. `first_asked` is what its cached answers used
    when they were first asked. `note_fields` and `note_order` are null for an imported run, for
    which they are not known.
    """

    llm: str
    retriever: str
    prompt_tokens: int | None
    completion_tokens: int | None
    uncounted: int
    cost: Cost
    statuses: dict[Status, int]
    marks: dict[Mark, int]
    run: str
    model: str
    note: str | None = None
    prompt: str
    top_k: int | None = None
    note_fields: str | None = None
    note_order: str | None
    note_chars: int | None = None
    note_images: int | None = None
    first_asked: FirstAsked | None = None
    latency: Latency | None = None


class ResultTable(Frozen):
    """All blocks over one set of questions (or of what `unit` says), what each run used, and what judges say."""

    data: str
    unit: str = "questions"
    n_questions: int
    n_clusters: int
    blocks: list[Block]
    notes: list[str]
    spending: list[Spending] = []
    judged: list[JudgedComparison] = []


class RivalPair(NamedTuple):
    """The best of a family and another figure, with `difference` = best - other by question."""

    best: Key
    other: Key
    difference: Values


def compared(
    columns: Mapping[Key, Values],
    families: Iterable[Collection[Key]],
    clusters: Clusters,
    unbounded: Collection[Hashable] = (),
) -> tuple[dict[Key, Cell], list[RivalPair]]:
    """Return a cell for each column of figures, marked if it is the best of its family or tied with it.

    `columns` are of shape (n_questions,). `unbounded` are blocks whose figures can be above 1.
    """
    if not columns:
        return {}, []
    can_exceed = [number for number, (block, _) in enumerate(columns) if block in unbounded]
    bounds = mean_bounds(np.stack(list(columns.values()), axis=1), clusters, unbounded=can_exceed)
    standings, pairs = stand(columns, families, clusters)
    cells = {
        key: _cell(key[1], column, bound, standings.get(key))
        for (key, column), bound in zip(columns.items(), bounds, strict=True)
    }
    return cells, pairs


def stand(
    columns: Mapping[Key, Values], families: Iterable[Collection[Key]], clusters: Clusters
) -> tuple[dict[Key, Standing], list[RivalPair]]:
    """Return the standing of each compared column of figures in its family, and the compared pairs.

    A run with exactly the figure of the best is as good as the best.
    """
    standings: dict[Key, Standing] = {}
    pairs: list[RivalPair] = []
    scored = [[key for key in family if not np.isnan(columns[key]).all()] for family in families]
    paired = [(rivals, of_family) for rivals in scored if (of_family := _pairs(rivals, columns))]
    tested = compare_families([np.stack([columns[key] for key in rivals], axis=1) for rivals, _ in paired], clusters)
    for (rivals, of_family), adjusted in zip(paired, tested, strict=True):
        pairs += of_family
        for pair in of_family:
            p = float(adjusted[rivals.index(pair.best), rivals.index(pair.other)])
            if not math.isnan(p):  # else no question is scored in both
                standings[pair.best] = Standing(best=True)
                standings[pair.other] = _standing(pair, p, clusters)
    return standings, pairs


def _standing(pair: RivalPair, p: float, clusters: Clusters) -> Standing:
    is_shared = ~np.isnan(pair.difference)
    if abs(pair.difference.sum()) < _EQUAL:  # never if a question is unscored: NaN
        return Standing(best=True, p=p)
    is_worse = p <= ALPHA and pair.difference[is_shared].sum() > 0
    untold = None if is_worse else why_undetectable(pair.difference[is_shared], clusters[is_shared])
    if p <= ALPHA and not is_worse:
        untold = f"better on the {is_shared.sum()} scored in both; what it left unscored counts 0"
    return Standing(tied=not is_worse, p=p, untold=untold)


def gains(
    columns: Mapping[Key, Values], baselines: Mapping[Key, Collection[Key]], clusters: Clusters
) -> dict[Key, Gain]:
    """Return the gain of each column over its baseline, if any question is scored in both."""
    compared_with = {other: baseline for baseline, others in baselines.items() for other in others}
    if not compared_with:
        return {}
    differences = np.stack([columns[other] - columns[base] for other, base in compared_with.items()], axis=1)
    rows = dict(zip(compared_with, zip(differences.T, paired_tests(differences, clusters), strict=True), strict=True))
    found = {}
    for others in baselines.values():
        tested = [(key, *rows[key], p) for key in others if (p := rows[key][1].p) is not None]
        for (key, difference, test, p), p_holm in zip(tested, holm([p for *_, p in tested]), strict=True):
            paired = difference[~np.isnan(difference)]
            found[key] = Gain(
                difference=float(paired.mean()),
                n=len(paired),
                ci95=test.interval[:2] if test.interval else None,
                p=p,
                p_holm=p_holm,
                no_interval=test.no_interval,
            )
    return found


def _cell(name: str, column: Values, bounds: Bounds, standing: Standing | None) -> Cell:
    scored = column[~np.isnan(column)]
    return Cell(
        value=float(scored.mean()) if len(scored) else None,
        n=len(scored),
        n_unscored=len(column) - len(scored),
        value_unscored_as_zero=float(scored.sum() / len(column)) if len(column) else None,
        ci95=bounds.interval[:2] if bounds.interval else None,
        no_interval=bounds.no_interval,
        run=name,
        **(standing.model_dump() if standing else {}),
    )


def _pairs(rivals: Sequence[Key], columns: Mapping[Key, Values]) -> list[RivalPair]:
    """Pair the best of a family with each other figure.

    Unscored questions count 0 in the choice of the best. No pair is made if all figures are equal up to rounding.
    """
    sums = {key: float(np.nansum(columns[key])) for key in rivals}
    if not sums or max(sums.values()) - min(sums.values()) < _EQUAL:
        return []
    best = max(sums, key=sums.__getitem__)
    return [RivalPair(best, key, columns[best] - columns[key]) for key in sums if key != best]


class Detectable(NamedTuple):
    """The smallest difference that could have been shown, or why it is not known."""

    difference: float | None
    why_not: str | None = None


def detectable(pairs: Iterable[RivalPair], clusters: Clusters) -> Detectable:
    """Return the smallest true difference that one test finds four times in five: the median over the pairs."""
    found, reasons = [], []
    for pair in pairs:
        is_shared = ~np.isnan(pair.difference)
        told = could_be_shown(pair.difference[is_shared], clusters[is_shared])
        found += [] if told.difference is None else [told.difference]
        reasons += [] if told.why_not is None else [told.why_not]
    if found:
        return Detectable(median(found))
    return Detectable(None, min(reasons, default=None))


def could_be_shown(differences: Values, clusters: Clusters) -> Detectable:
    """Return the smallest true difference that paired differences (n,), without NaN, show four times in five."""
    if reason := why_undetectable(differences, clusters):
        return Detectable(None, reason)
    error = standard_error(differences, clusters)
    if not error or error < _EQUAL * np.abs(differences).max():
        return Detectable(None, "all differences are equal")
    sizes = np.unique(clusters, return_counts=True)[1].astype(np.float64)
    return Detectable(detectable_difference(error, int(worth_of(sizes))))
