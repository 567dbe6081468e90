"""Compare the order of systems by people with that by measures, from pairs that name who gave each answer.

Standings: each system has one, and the difference of two standings comes as close as it can, by least squares, to the
differences that were found in the pairs of these systems (Mosteller 1951; HodgeRank, Jiang et al. 2011, arXiv
0811.1067). A difference of people is the mean of the judges, that of a measure is the difference of its scores, on the
same pairs. If every two systems have the same number of pairs, the order is that of the mean difference of each.

Soft pairwise accuracy (`systems.soft_pairwise_accuracy`) takes the p of two systems from their own pairs: the share of
exchanges of both systems, all pairs of a query together, after which the first is at least as far ahead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from qilin_rag.agreement.correlations import ratio
from qilin_rag.agreement.figure_cells import value_cell, with_heading
from qilin_rag.agreement.pairs import JudgedPairs
from qilin_rag.agreement.systems import p_of_sums
from qilin_rag.core.stats import Booleans, Clusters, Values, clusters_by, kendall_tau
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen
from qilin_rag.reports.sections import Section

FEWEST_SYSTEMS = 3
"""The fewest systems whose order says anything."""
_MOST_NAMED = 20
_DECIMALS = 9
"""Standings are equal if they differ by rounding alone."""
HOW = (
    "Systems: Kendall's tau-b compares their order by people with that by the measure, from least squares over the "
    "differences in pairs; soft accuracy compares how sure both are that one system is better than another, from the "
    "pairs of these two (arXiv 2409.09598)."
)


class SystemOrder(Frozen):
    """How far a measure agrees with people on the order of the systems.

    Attributes:
        measure: Its name.
        kind: `measure`, or `sentinel`.
        n_pairs: The number of pairs that people judged and the measure scores.
        soft_accuracy: Soft pairwise accuracy; None if people or the measure tell no two answers of these pairs apart.
        kendall: Kendall's tau-b of the standings; None if either ranks nothing, or these pairs don't connect three
            systems or more.
    """

    measure: str
    kind: Literal["measure", "sentinel"]
    n_pairs: int
    soft_accuracy: float | None
    kendall: float | None


class SystemAspect(Frozen):
    """The order of systems on one aspect.

    Attributes:
        aspect: What was judged.
        n_pairs: The number of judged pairs of two systems.
        systems: The systems, best first by people; by name if their pairs do not connect them.
        standings: The standing of each by people, 0 on average; None if the pairs do not connect them.
        rows: The measures, then the sentinels.
    """

    aspect: str
    n_pairs: int
    systems: list[str]
    standings: list[float] | None
    rows: list[SystemOrder]


class _Compared(NamedTuple):
    """Pairs of two systems: their places among all pairs, both systems by number, and the query of each."""

    places: Clusters
    first: Clusters
    second: Clusters
    queries: Clusters

    def some(self, of: Booleans) -> _Compared:
        return _Compared(*(each[of] for each in self))


def system_orders(
    judged: JudgedPairs, measures: Mapping[str, Values], sentinels: Mapping[str, Values], seed: int = 0
) -> list[SystemAspect]:
    """Compare measures and sentinels with people on the order of the systems that gave the answers.

    Args:
        judged: The pairs. Those of one system, or of one that has no name, are left out.
        measures: The scores of both answers of each pair, shape (pairs, 2), by measure; NaN for unscored ones.
        sentinels: Likewise, of scores that must not win.
        seed: Draws the exchanges.

    Returns:
        A table for each aspect on which three systems or more were judged.
    """
    both = [(pair.a.system, pair.b.system) for pair in judged.pairs]
    is_named = np.array([bool(a and b and a != b) for a, b in both])
    names = sorted({name for pair, known in zip(both, is_named, strict=True) if known for name in pair if name})
    number = {name: place for place, name in enumerate(names)}
    places = np.flatnonzero(is_named)
    sides = np.array([[number[name or ""] for name in both[place]] for place in places], dtype=np.intp).reshape(-1, 2)
    compared = _Compared(places, sides[:, 1], sides[:, 0], judged.queries[places])
    found = []
    for aspect in judged.aspects:
        said = judged.judgements(aspect)[places]
        is_said = ~np.isnan(said)
        labels = ratio(np.where(is_said, said, 0.0).sum(axis=1), is_said.sum(axis=1).astype(np.float64))
        rows = compared.some(~np.isnan(labels))
        there = np.unique([rows.first, rows.second])
        if len(there) < FEWEST_SYSTEMS:
            continue
        labels = labels[~np.isnan(labels)]
        gains = {name: np.subtract(*values[rows.places].T[::-1]) for name, values in {**measures, **sentinels}.items()}
        fitted = _standings(rows, labels[:, None])
        standings = None if fitted is None else fitted[:, 0]
        order = np.arange(len(there)) if standings is None else np.argsort(-standings, kind="stable")
        found.append(
            SystemAspect(
                aspect=aspect,
                n_pairs=len(labels),
                systems=[names[there[place]] for place in order],
                standings=None if standings is None else standings[order].tolist(),
                rows=list(_rows(rows, labels, gains, set(sentinels), seed)),
            )
        )
    return found


def _rows(
    pairs: _Compared, labels: Values, gains: Mapping[str, Values], sentinels: set[str], seed: int
) -> Iterator[SystemOrder]:
    """Yield the row of each measure; measures that score the same pairs share the exchanges."""
    alike: dict[bytes, list[str]] = defaultdict(list)
    for name, values in gains.items():
        alike[(~np.isnan(values)).tobytes()].append(name)
    found = {}
    for names in alike.values():
        is_scored = ~np.isnan(gains[names[0]])
        rows = pairs.some(is_scored)
        columns = np.stack([labels, *(gains[name] for name in names)], axis=1)[is_scored]
        p = _pairwise_p(rows, columns, seed)
        is_apart = (columns != 0).sum(axis=0) > 0
        soft = 1 - np.abs(p[:, 1:] - p[:, :1]).mean(axis=0) if len(p) else np.full(len(names), np.nan)
        soft[~(is_apart[1:] & is_apart[0])] = np.nan
        standings = _standings(rows, columns)
        taus: list[float | None] = [None] * len(names)
        if standings is not None and len(standings) >= FEWEST_SYSTEMS:
            people, *measured = standings.T.tolist()
            taus = [kendall_tau(each, people) for each in measured]
        for name, accuracy, tau in zip(names, soft.tolist(), taus, strict=True):
            found[name] = SystemOrder(
                measure=name,
                kind="sentinel" if name in sentinels else "measure",
                n_pairs=len(columns),
                soft_accuracy=None if np.isnan(accuracy) else accuracy,
                kendall=tau,
            )
    yield from (found[name] for name in gains)


def _pairwise_p(pairs: _Compared, columns: Values, seed: int) -> Values:
    """Return the p of the first of each two systems being better by each column, shape (pairs of systems, columns)."""
    turned = np.where((pairs.first > pairs.second)[:, None], -columns, columns)
    both = np.sort(np.stack([pairs.first, pairs.second]), axis=0)
    numbers = np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)
    order = np.argsort(numbers, kind="stable")
    found = []
    for rows in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []:
        clusters = clusters_by(pairs.queries[rows].tolist())
        sums = np.zeros((int(clusters.max()) + 1, columns.shape[1]))
        np.add.at(sums, clusters, turned[rows])
        found.append(p_of_sums(sums, seed))
    return np.array(found).reshape(-1, columns.shape[1])


def _standings(pairs: _Compared, columns: Values) -> Values | None:
    """Return the standing of each system of the pairs, 0 on average, shape (systems, columns).

    Args:
        pairs: The pairs.
        columns: By how much the first system of each pair is better, shape (pairs, columns).

    Returns:
        None if the pairs do not connect all systems.
    """
    there, numbers = np.unique([pairs.first, pairs.second], return_inverse=True)
    first, second = numbers.reshape(2, -1)
    n = len(there)
    if not n or not _is_connected(first, second, n):
        return None
    laplacian, sums = np.full((n, n), 1 / n), np.zeros((n, columns.shape[1]))  # 1/n makes the mean 0
    for one, other, sign in ((first, second, 1.0), (second, first, -1.0)):
        np.add.at(laplacian, (one, one), 1.0)
        np.add.at(laplacian, (one, other), -1.0)
        np.add.at(sums, one, sign * columns)
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1.0
    standings: Values = np.round(np.linalg.solve(laplacian, sums) / scale, _DECIMALS) * scale
    return standings


def _is_connected(first: Clusters, second: Clusters, n: int) -> bool:
    """Return whether a chain of pairs leads from each system to each other one."""
    is_reached, n_reached = np.arange(n) == 0, 0
    while n_reached < is_reached.sum():
        n_reached = int(is_reached.sum())
        is_touched = is_reached[first] | is_reached[second]
        is_reached[first[is_touched]] = is_reached[second[is_touched]] = True
    return n_reached == n


def order_sections(orders: list[SystemAspect]) -> Iterator[Section]:
    """Yield a section for each aspect.

    Args:
        orders: The tables.
    """
    for order in orders:
        rows = with_heading(
            (row.kind, [row.measure, str(row.n_pairs), *map(value_cell, (row.soft_accuracy, row.kendall))])
            for row in order.rows
        )
        if order.standings is None:
            lines = ["The pairs do not connect all systems, so people give them no common order."]
        else:
            named = [f"{name} ({value:+.2f})" for name, value in zip(order.systems, order.standings, strict=True)]
            more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
            lines = [f"By people, best first: {', '.join(named[:_MOST_NAMED])}{more}."]
        lines.append(few_points(len(order.systems), "system"))
        title = f"{order.aspect}, order of {counted(len(order.systems), 'system')}: {counted(order.n_pairs, 'pair')}"
        yield Section(title, ["measure", "pairs", "soft accuracy", "Kendall"], rows, lines)


def few_points(n: int, noun: str) -> str:
    """Return the remark that an order of few systems is as many points.

    >>> few_points(3, "run")
    'The order of 3 runs rests on as many points; it has no interval.'
    """
    return f"The order of {counted(n, noun)} rests on as many points; it has no interval."


def order_figures(orders: list[SystemAspect]) -> dict[tuple[str, str], dict[str, object]]:
    """Return the figures of each aspect and measure, for CSV.

    Args:
        orders: The tables.
    """
    return {
        (order.aspect, row.measure): {
            "n_systems": len(order.systems),
            "n_pairs_of_systems": row.n_pairs,
            "soft_accuracy": row.soft_accuracy,
            "kendall_of_systems": row.kendall,
        }
        for order in orders
        for row in order.rows
    }
