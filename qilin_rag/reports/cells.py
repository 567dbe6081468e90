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
from qilin_rag.types import Cost, Frozen

ALPHA = 0.05

Kind = Literal["run", "control", "paper"]
Key = tuple[Hashable, str]
"""What a column of figures is of: block or metric, and the name of the run."""


class Cell(Frozen):
    """One run under one metric.

    `tied`: not the best, but not significantly worse (or not to be told: `p` is Holm's, over all that are compared with
    the best). `likely`: a figure of the paper that most likely is of this retriever. `decimals`: as many are known.
    """

    value: float | None
    n: int | None = None
    n_unscored: int = 0
    ci95: tuple[float, float] | None = None
    best: bool = False
    tied: bool = False
    p: float | None = None
    likely: bool = False
    decimals: int = 4
    run: str | None = None


class Block(Frozen):
    """One metric: `cells[row][column]` is None where there is no such run; `kinds` says what each row is.

    `detectable`: the smallest true difference that these questions would show four times in five (the median over what
    was compared with the best). `axes`: what its rows and columns are, in flat records.
    """

    metric: str
    signature: str
    rows: list[str]
    kinds: list[Kind]
    columns: list[str]
    cells: list[list[Cell | None]]
    detectable: float | None = None
    axes: tuple[str, str] = ("llm", "retriever")


class Spending(Frozen):
    """Tokens of one run (without those of cached answers, nor of `uncounted` ones) and their cost."""

    llm: str
    retriever: str
    prompt_tokens: int | None
    completion_tokens: int | None
    uncounted: int
    cost: Cost
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
    """A cell for each column of figures (n_questions,), marked where it is the best of its family, or tied with it.

    All at once: columns share their resamples, and comparisons their signs. Holm's correction is over all that one best
    is tested on; a run with the best's own figure is as good as it is.
    """
    if not columns:
        return {}, []
    intervals = intervals95(np.stack(list(columns.values()), axis=1), clusters)
    cells = {
        key: _cell(key[1], column, interval) for (key, column), interval in zip(columns.items(), intervals, strict=True)
    }
    pairs = [pair for family in families for pair in _pairs(family, columns)]
    p_values = permutation_test(np.stack([pair.difference for pair in pairs], axis=1), clusters) if pairs else []
    tested: dict[Key, list[tuple[Pair, float]]] = defaultdict(list)
    for pair, p in zip(pairs, p_values, strict=True):
        if p is not None:  # None: nothing scored in both
            tested[pair.best].append((pair, p))
    for best, family in tested.items():
        cells[best] = cells[best].model_copy(update={"best": True})
        for (pair, _), p in zip(family, holm([p for _, p in family]), strict=True):
            is_equal = abs(pair.difference.sum()) < 1e-9  # never where a question is unscored: NaN
            is_worse = p <= ALPHA and np.nansum(pair.difference) > 0
            marks = {"best": bool(is_equal), "tied": not is_worse and not is_equal, "p": p}
            cells[pair.other] = cells[pair.other].model_copy(update=marks)
    return cells, pairs


def _cell(name: str, column: Values, interval: Interval | None) -> Cell:
    scored = column[~np.isnan(column)]
    return Cell(
        value=float(scored.mean()) if len(scored) else None,
        n=len(scored),
        n_unscored=len(column) - len(scored),
        ci95=interval[:2] if interval else None,
        run=name,
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
