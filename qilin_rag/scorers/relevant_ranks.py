"""Compute the figures of a search among all notes from the ranks of its relevant notes, which is all they depend on.

A ranking of 1,000 notes has few relevant ones: their ranks take no memory, and columns of them no time. The definitions
are those of ir_measures (Recall, Success, RR, nDCG), and the values are equal to them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.types import Score
from qilin_rag.scorers.table import ScoreColumn

RECALL_AT = (100, 500, 1000)
NDCG_AT = (10, 100)
Ints = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class RankMeasure(NamedTuple):
    """A measure at a rank, and its name in ir_measures."""

    kind: str
    k: int

    @property
    def name(self) -> str:
        """Return the name of the metric, such as `recall@100`."""
        return f"{self.kind}@{self.k}"

    @property
    def of_ir_measures(self) -> str:
        """Return the name in ir_measures, such as `R@100`."""
        names = {"recall": "R", "hit_rate": "Success", "mrr": "RR", "ndcg": "nDCG"}
        return f"{names[self.kind]}@{self.k}"


def measures_at(top_k: int) -> list[RankMeasure]:
    """Return the measures of rankings of up to `top_k` notes: only those that they are long enough for."""
    depths = [k for k in RECALL_AT if k <= top_k] or [top_k]
    return [
        *(RankMeasure("recall", k) for k in depths),
        *(RankMeasure("hit_rate", k) for k in depths),
        RankMeasure("mrr", top_k),
        *(RankMeasure("ndcg", k) for k in NDCG_AT if k <= top_k),
    ]


def relevant_figures(measures: Sequence[RankMeasure], request: Ints, rank: Ints, n_relevant: Ints) -> dict[str, Values]:
    """Return each measure of each request, (n_requests,), by name; NaN if it has no relevant note.

    Args:
        measures: The measures.
        request: The request of each relevant note that was found, (n_found,).
        rank: Its rank, from 1, (n_found,).
        n_relevant: The number of relevant notes of each request, found or not, (n_requests,).
    """
    n = len(n_relevant)

    def summed(values: npt.NDArray[np.float64], k: int) -> Values:
        within = rank <= k
        return np.bincount(request[within], values[within], minlength=n).astype(np.float64)

    found = {}
    for measure in measures:
        k = measure.k
        if measure.kind == "recall":
            values = summed(np.ones(len(rank)), k) / np.maximum(n_relevant, 1)
        elif measure.kind == "hit_rate":
            values = (summed(np.ones(len(rank)), k) > 0).astype(np.float64)
        elif measure.kind == "mrr":
            values = np.zeros(n)
            np.maximum.at(values, request[rank <= k], 1 / rank[rank <= k])
        else:
            ideal = np.append(0, np.cumsum(1 / np.log2(np.arange(k) + 2)))[np.minimum(n_relevant, k)]
            values = summed(1 / np.log2(rank + 1), k) / np.where(n_relevant > 0, ideal, 1)
        found[measure.name] = np.where(n_relevant > 0, values, np.nan)
    return found


def as_columns(
    figures: dict[str, Values], ids: Sequence[str], signatures: dict[str, str], why_unscored: str
) -> dict[str, ScoreColumn]:
    """Return figures as columns of scores.

    Args:
        figures: The figures of `relevant_figures`.
        ids: The requests.
        signatures: The signature of each metric.
        why_unscored: The reason of a figure that does not exist.
    """
    columns = {}
    for metric, values in figures.items():
        column = ScoreColumn(metric, ids, signatures[metric])
        column.values = array("d", values.tolist())
        for row in np.flatnonzero(np.isnan(values)).tolist():
            signature = signatures[metric]
            unscored = Score(question_id=ids[row], metric=metric, value=None, reason=why_unscored, signature=signature)
            column.put(row, unscored)
        columns[metric] = column
    return columns
