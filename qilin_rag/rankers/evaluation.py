"""How good the order is that scores put candidates in: the figures of each request."""

from __future__ import annotations

from typing import NamedTuple

from qilin_rag.data.exposures import Bools
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.ranking_metrics import RankedGroups, Values


class TieRange(NamedTuple):
    """How far the order of tied candidates could move the figures, each (n_requests,) by name; NaN without a click."""

    is_tied: Bools
    """(n_requests,): a clicked and an unclicked candidate score the same."""
    lowest: dict[str, Values]
    """The clicked ones last among those of their score."""
    highest: dict[str, Values]


def figures_of(requests: Requests, scores: Floats) -> list[dict[str, float] | None]:
    """Return the figures of each request by name (see `ranking_metrics`), None where nothing was clicked.

    Ties have no order: a figure is its mean over all orders of them.
    """
    found = RankedGroups(requests.offsets, scores, requests.clicked).figures()
    columns = [values.tolist() for values in found.values()]
    return [
        dict(zip(found, values, strict=True)) if n_clicked else None
        for n_clicked, *values in zip(requests.n_clicked.tolist(), *columns, strict=True)
    ]


def tie_range(requests: Requests, scores: Floats) -> TieRange:
    """Return the figures of the worst and of the best order of ties."""
    worst, best = (
        RankedGroups(requests.offsets, scores, requests.clicked, first)
        for first in (~requests.clicked, requests.clicked)
    )
    together = RankedGroups(requests.offsets, scores, requests.clicked)
    return TieRange(together.is_tied, worst.figures(), best.figures())
