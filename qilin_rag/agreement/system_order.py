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
from qilin_rag.agreement.pairs import JudgedPairs
from qilin_rag.agreement.systems import p_of_sums
from qilin_rag.core.stats import Booleans, Clusters, Values, clusters_by, kendall_tau
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen
from qilin_rag.reports.sections import Section

FEWEST_SYSTEMS = 3
"""The fewest systems whose order says anything."""
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
        soft_accuracy: Soft pairwise accuracy; None without such pairs.
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
        standings = _standings(rows, labels)
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
        soft = 1 - np.abs(p[:, 1:] - p[:, :1]).mean(axis=0) if len(p) else np.full(len(names), np.nan)
        people, *measured = (_standings(rows, column) for column in columns.T)
        for name, accuracy, standings in zip(names, soft.tolist(), measured, strict=True):
            kendall = None
            if people is not None and standings is not None and len(people) >= FEWEST_SYSTEMS:
                kendall = kendall_tau(standings.tolist(), people.tolist())
            found[name] = SystemOrder(
                measure=name,
                kind="sentinel" if name in sentinels else "measure",
                n_pairs=len(columns),
                soft_accuracy=None if np.isnan(accuracy) else accuracy,
                kendall=kendall,
            )
    yield from (found[name] for name in gains)


def _pairwise_p(pairs: _Compared, columns: Values, seed: int) -> Values:
    """Return the p of the first of each two systems being better by each column, shape (pairs of systems, columns)."""
    is_turned = pairs.first > pairs.second
    turned = np.where(is_turned[:, None], -columns, columns)
    numbers = np.sort(np.stack([pairs.first, pairs.second]), axis=0)
    found = []
    for one, other in np.unique(numbers, axis=1).T:
        is_theirs = (numbers[0] == one) & (numbers[1] == other)
        clusters = clusters_by(pairs.queries[is_theirs].tolist())
        sums = np.zeros((int(clusters.max()) + 1, columns.shape[1]))
        np.add.at(sums, clusters, turned[is_theirs])
        found.append(p_of_sums(sums, seed))
    return np.array(found).reshape(-1, columns.shape[1])


def _standings(pairs: _Compared, gains: Values) -> Values | None:
    """Return the standing of each system of the pairs, 0 on average; None if the pairs do not connect all of them.

    Args:
        pairs: The pairs.
        gains: By how much the first system of each pair is better.
    """
    there, numbers = np.unique([pairs.first, pairs.second], return_inverse=True)
    first, second = numbers.reshape(2, -1)
    n = len(there)
    laplacian, sums = np.zeros((n, n)), np.zeros(n)
    for one, other, sign in ((first, second, 1.0), (second, first, -1.0)):
        np.add.at(laplacian, (one, one), 1.0)
        np.add.at(laplacian, (one, other), -1.0)
        np.add.at(sums, one, sign * gains)
    if n and np.linalg.matrix_rank(laplacian) < n - 1:
        return None
    standings = np.linalg.pinv(laplacian, hermitian=True) @ sums
    scale = np.abs(gains).max(initial=0.0) or 1.0
    rounded: Values = np.round(standings / scale, _DECIMALS) * scale
    return rounded


def order_sections(orders: list[SystemAspect]) -> Iterator[Section]:
    """Yield a section for each aspect.

    Args:
        orders: The tables.
    """
    for order in orders:
        rows: list[list[str]] = []
        kind = "measure"
        for row in order.rows:
            if row.kind != kind:
                kind = row.kind
                rows.append(["sentinels", *[""] * 3])
            figures = ["-" if value is None else f"{value:.4f}" for value in (row.soft_accuracy, row.kendall)]
            rows.append([row.measure, str(row.n_pairs), *figures])
        if order.standings is None:
            lines = ["The pairs do not connect all systems, so people give them no common order."]
        else:
            named = zip(order.systems, order.standings, strict=True)
            lines = [f"By people, best first: {', '.join(f'{name} ({value:+.2f})' for name, value in named)}."]
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
