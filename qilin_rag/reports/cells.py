"""The figures of runs side by side: how sure each is, which is the best, and what is not significantly worse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from qilin_rag.stats import (
    Clusters,
    Interval,
    Values,
    detectable_difference,
    holm,
    intervals95,
    permutation_test,
    standard_error,
)
from qilin_rag.types import Cost, Frozen, Mark, Status

ALPHA = 0.05

Kind = Literal["run", "control", "paper"]
Key = tuple[Hashable, str]
"""What a column of figures is of: block or metric, and the name of the run."""


class Standing(Frozen):
    """How a figure compares with the best of its family.

    `tied`: not the best, but not significantly worse (or not to be told: `p` is Holm's, over all that are compared with
    the best).
    """

    best: bool = False
    tied: bool = False
    p: float | None = None


class Gain(Frozen):
    """The mean difference to a baseline over the `n` questions scored in both; `p` is Holm's over one baseline."""

    difference: float
    n: int
    ci95: tuple[float, float] | None
    p: float


class Cell(Frozen):
    """One run under one metric.

    `best`, `tied` and `p` are its standing in its column, or in the only row; `in_row` is that in one of several rows.
    `over_none`: the gain over the same LLM without notes. `value_unscored_as_zero` counts what is unscored as 0, as the
    choice of the best does. `likely`: a figure of the paper that most likely is of this retriever. `decimals`: as many
    are known. `also`: other runs with the same figures.
    """

    value: float | None
    n: int | None = None
    n_unscored: int = 0
    value_unscored_as_zero: float | None = None
    ci95: tuple[float, float] | None = None
    best: bool = False
    tied: bool = False
    p: float | None = None
    in_row: Standing | None = None
    over_none: Gain | None = None
    likely: bool = False
    decimals: int = 4
    run: str | None = None
    also: list[str] = []


class Block(Frozen):
    """One metric: `cells[row][column]` is None where there is no such run; `kinds` says what each row is.

    `detectable`: the smallest true difference that these questions would show four times in five (the median over what
    was compared with the best). `axes`: what its rows and columns are, in flat records. `signatures`: those of its
    columns, where each is a metric of its own.
    """

    metric: str
    signature: str
    signatures: list[str] = []
    rows: list[str]
    kinds: list[Kind]
    columns: list[str]
    cells: list[list[Cell | None]]
    detectable: float | None = None
    axes: tuple[str, str] = ("llm", "retriever")


class Spending(Frozen):
    """Tokens of one run (without those of cached answers, nor of `uncounted` ones), their cost, and its statuses.

    `statuses` counts questions by status, `marks` what is doubtful about answers.
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


class Table(Frozen):
    """All blocks over one set of questions (or of what else `unit` says), and what each run took."""

    data: str
    unit: str = "questions"
    n_questions: int
    n_clusters: int
    blocks: list[Block]
    notes: list[str]
    spending: list[Spending] = []


class Pair(NamedTuple):
    """The best of a family and another one, with `difference` = best - other by question."""

    best: Key
    other: Key
    difference: Values


def compared(
    columns: Mapping[Key, Values], families: Iterable[Collection[Key]], clusters: Clusters
) -> tuple[dict[Key, Cell], list[Pair]]:
    """A cell for each column of figures (n_questions,), marked where it is the best of its family, or tied with it."""
    if not columns:
        return {}, []
    intervals = intervals95(np.stack(list(columns.values()), axis=1), clusters)
    standings, pairs = stand(columns, families, clusters)
    cells = {
        key: _cell(key[1], column, interval, standings.get(key))
        for (key, column), interval in zip(columns.items(), intervals, strict=True)
    }
    return cells, pairs


def stand(
    columns: Mapping[Key, Values], families: Iterable[Collection[Key]], clusters: Clusters
) -> tuple[dict[Key, Standing], list[Pair]]:
    """The standing of each column of figures in its family, as far as it was compared, and what was compared.

    All at once: comparisons share their signs. Holm's correction is over all that one best is tested on; a run with the
    best's own figure is as good as it is.
    """
    pairs = [pair for family in families for pair in _pairs(family, columns)]
    p_values = permutation_test(np.stack([pair.difference for pair in pairs], axis=1), clusters) if pairs else []
    tested: dict[Key, list[tuple[Pair, float]]] = defaultdict(list)
    for pair, p in zip(pairs, p_values, strict=True):
        if p is not None:  # None: nothing scored in both
            tested[pair.best].append((pair, p))
    standings: dict[Key, Standing] = {}
    for best, family in tested.items():
        standings[best] = Standing(best=True)
        for (pair, _), p in zip(family, holm([p for _, p in family]), strict=True):
            is_equal = abs(pair.difference.sum()) < 1e-9  # never where a question is unscored: NaN
            is_worse = p <= ALPHA and np.nansum(pair.difference) > 0
            standings[pair.other] = Standing(best=bool(is_equal), tied=not is_worse and not is_equal, p=p)
    return standings, pairs


def gains(
    columns: Mapping[Key, Values], baselines: Mapping[Key, Collection[Key]], clusters: Clusters
) -> dict[Key, Gain]:
    """The gain of each column of figures over its baseline; of none where no question is scored in both."""
    compared_with = {other: baseline for baseline, others in baselines.items() for other in others}
    if not compared_with:
        return {}
    differences = np.stack([columns[other] - columns[base] for other, base in compared_with.items()], axis=1)
    intervals = intervals95(differences, clusters)
    tests = permutation_test(differences, clusters)
    rows = dict(zip(compared_with, zip(differences.T, intervals, tests, strict=True), strict=True))
    found = {}
    for others in baselines.values():
        tested = [(key, rows[key], p) for key in others if (p := rows[key][2]) is not None]
        for (key, (difference, interval, _), _), p in zip(tested, holm([p for *_, p in tested]), strict=True):
            paired = difference[~np.isnan(difference)]
            ci95 = interval[:2] if interval else None
            found[key] = Gain(difference=float(paired.mean()), n=len(paired), ci95=ci95, p=p)
    return found


def _cell(name: str, column: Values, interval: Interval | None, standing: Standing | None) -> Cell:
    scored = column[~np.isnan(column)]
    return Cell(
        value=float(scored.mean()) if len(scored) else None,
        n=len(scored),
        n_unscored=len(column) - len(scored),
        value_unscored_as_zero=float(scored.sum() / len(column)) if len(column) else None,
        ci95=interval[:2] if interval else None,
        run=name,
        **(standing.model_dump() if standing else {}),
    )


def _pairs(family: Collection[Key], columns: Mapping[Key, Values]) -> list[Pair]:
    """The best of a family with each other one.

    What a run left unscored counts 0 in the choice of the best; where all are the same, none is.
    """
    sums = {key: float(np.nansum(columns[key])) for key in family if not np.isnan(columns[key]).all()}
    if len(set(sums.values())) < 2:
        return []
    best = max(sums, key=sums.__getitem__)
    return [Pair(best, key, columns[best] - columns[key]) for key in sums if key != best]


def detectable(pairs: Iterable[Pair], clusters: Clusters) -> float | None:
    """The smallest difference that could have been shown: the median over what was compared."""
    errors = [
        standard_error(pair.difference[is_scored], clusters[is_scored])
        for pair in pairs
        for is_scored in [~np.isnan(pair.difference)]
    ]
    found = [detectable_difference(error) for error in errors if error]
    return median(found) if found else None
