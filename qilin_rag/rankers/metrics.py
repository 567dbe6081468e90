"""Compute the figures of a ranking of candidates against clicks, like ir_measures and the paper's released code.

Clicked notes that are not among the candidates count as not found, as in trec_eval with all judgements.

Candidates with equal scores have no order. So each figure is its exact mean over all orders of the ties, not that of
one order: no order of ids, files or exposure can change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import sorted_runs
from qilin_rag.data.requests import Floats, Requests

MEASURES = {
    "mrr@10": "RR@10",
    "mrr@100": "RR@100",
    "map@10": "AP@10",
    "map@100": "AP@100",
    "ndcg@10": "nDCG@10",
    "recall@10": "R@10",
    "precision@10": "P@10",
    "recall@100": "R@100",
    "precision@100": "P@100",
}
"""The names of the paper's figures, and of ir_measures' measures."""
RELEASED = {"map@10 (released code)": 10, "map@100 (released code)": 100}
"""MAP that divides by the smaller of k and the number of clicked notes."""
FIGURES = (*MEASURES, *RELEASED)
Values = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class RankedGroups:
    """The candidates of requests in groups of equal scores, best group first.

    In a group of n candidates with r clicks, all orders are equally likely. So each place holds a click with
    probability r / n, and another place as well with (r - 1) / (n - 1), which is enough for the linear figures and AP.
    RR needs the probability that the first click is at place j, which is negative hypergeometric.
    """

    def __init__(
        self,
        offsets: Ints,
        scores: npt.NDArray[np.floating],
        clicked: Bools,
        split_by: Bools | None = None,
        n_relevant: Ints | None = None,
    ) -> None:
        """Group the candidates.

        Args:
            offsets: (n_requests + 1,); the candidates of request i are the rows offsets[i] to offsets[i + 1].
            scores: (n_candidates,), finite.
            clicked: (n_candidates,).
            split_by: (n_candidates,); among equal scores, candidates that have it come first, as their own group.
            n_relevant: (n_requests,): the clicked notes of each request, candidates or not. Default: those that are.
        """
        n_requests = len(offsets) - 1
        request = np.repeat(np.arange(n_requests), np.diff(offsets))
        split = np.zeros(len(request), bool) if split_by is None else split_by
        order, is_first = sorted_runs(request, -scores, ~split)
        of, hit = request[order], clicked[order]
        group = np.cumsum(is_first) - 1
        first = np.flatnonzero(is_first)
        hits_until = np.append(0, np.cumsum(hit))
        self._n_requests, self._request = n_requests, of
        self._rank = np.arange(len(order)) - offsets[of] + 1
        self._size = np.bincount(group)[group]
        self._hits = np.bincount(group, hit)[group]
        self._nth = self._rank - self._rank[first][group]  # counted from 0
        self._hits_before = (hits_until[first] - hits_until[offsets[of[first]]])[group]
        n_clicked = np.bincount(request, clicked, minlength=n_requests)
        self.n_relevant = n_clicked if n_relevant is None else n_relevant
        """(n_requests,)"""

    @property
    def is_tied(self) -> Bools:
        """Return whether a clicked and an unclicked candidate of each request have the same score, (n_requests,)."""
        is_mixed = (self._hits > 0) & (self._hits < self._size)
        return np.bincount(self._request, is_mixed, minlength=self._n_requests) > 0

    def figures(self) -> dict[str, Values]:
        """Return each figure of each request, (n_requests,); NaN if nothing is clicked."""
        made: dict[str, Callable[[int], Values]] = {
            "RR": self._reciprocal_rank,
            "AP": lambda k: self._precision_at_hits(k) / self.n_relevant,
            "nDCG": self._ndcg,
            "R": lambda k: self._sum(self._chance, k) / self.n_relevant,
            "P": lambda k: self._sum(self._chance, k) / k,
        }
        found = {}
        with np.errstate(divide="ignore", invalid="ignore"):
            for name, measure in MEASURES.items():
                kind, _, k = measure.partition("@")
                found[name] = made[kind](int(k))
            for name, most in RELEASED.items():
                found[name] = self._precision_at_hits(most) / np.minimum(self.n_relevant, most)
        return {name: np.where(self.n_relevant > 0, values, np.nan) for name, values in found.items()}

    @property
    def _chance(self) -> Values:
        """Return the probability of a click at each place."""
        chance: Values = self._hits / self._size
        return chance

    def _sum(self, values: Values, k: int) -> Values:
        """Sum the values at the first `k` places of each request."""
        within = np.where(self._rank <= k, values, 0.0)
        return np.bincount(self._request, within, minlength=self._n_requests).astype(np.float64)

    def _ndcg(self, k: int) -> Values:
        discounts = 1 / np.log2(np.arange(k) + 2)
        ideal = np.append(0, np.cumsum(discounts))[np.minimum(self.n_relevant, k).astype(np.int64)]
        ndcg: Values = self._sum(self._chance / np.log2(self._rank + 1), k) / ideal
        return ndcg

    def _precision_at_hits(self, k: int) -> Values:
        """Sum the precision at the rank of each hit among the first `k`."""
        others = self._nth * (self._hits - 1) / np.maximum(self._size - 1, 1)  # hits above it in its own group
        return self._sum(self._chance * (1 + self._hits_before + others) / self._rank, k)

    def _reciprocal_rank(self, k: int) -> Values:
        """Sum 1 / rank times the probability that the first click is at that rank."""
        rows = np.flatnonzero((self._nth == 0) & (self._hits > 0) & (self._hits_before == 0))
        rank, n, r = (values[rows] for values in (self._rank, self._size, self._hits))
        total, none_yet = np.zeros(len(rows)), np.ones(len(rows))
        for nth in range(min(k, int((n - r).max(initial=0)) + 1)):
            left = np.maximum(n - nth, 1)
            total += np.where(rank + nth <= k, none_yet * np.minimum(r / left, 1) / (rank + nth), 0.0)
            none_yet *= np.maximum(n - r - nth, 0) / left
        found = np.zeros(self._n_requests)
        found[self._request[rows]] = total
        return found


class TieRange(NamedTuple):
    """The range of the figures over orders of tied candidates, each (n_requests,) by name; NaN without a click."""

    is_tied: Bools
    """(n_requests,): a clicked and an unclicked candidate have the same score."""
    lowest: dict[str, Values]
    """The clicked ones are last among equal scores."""
    highest: dict[str, Values]


def figures_of(requests: Requests, scores: Floats, n_relevant: Ints | None = None) -> list[dict[str, float] | None]:
    """Return the figures of each request by name (see `ranking_metrics`); None if nothing was clicked.

    Ties have no order: a figure is its mean over all their orders.

    Args:
        requests: The requests with their candidates.
        scores: (n_candidates,), finite.
        n_relevant: (n_requests,): the clicked notes of each request, candidates or not. Default: those that are.
    """
    return by_request(RankedGroups(requests.offsets, scores, requests.clicked, n_relevant=n_relevant).figures())


def by_request(columns: Mapping[str, Values]) -> list[dict[str, float] | None]:
    """Return the figures that each request has, None if it has none, from columns (n_requests,) with NaN for none."""
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    figures = ({name: value for name, value in zip(columns, row, strict=True) if not math.isnan(value)} for row in rows)
    return [found or None for found in figures]


def tie_range(requests: Requests, scores: Floats, n_relevant: Ints | None = None) -> TieRange:
    """Return the figures of the worst and of the best order of ties."""
    worst, best = (
        RankedGroups(requests.offsets, scores, requests.clicked, first, n_relevant)
        for first in (~requests.clicked, requests.clicked)
    )
    together = RankedGroups(requests.offsets, scores, requests.clicked)
    return TieRange(together.is_tied, worst.figures(), best.figures())
