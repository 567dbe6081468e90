"""Score an answer by the nuggets that it supports, with the formulas of nuggetizer.

A supported nugget counts 1, a partly supported one 0.5, or 0 in the strict figures. `nugget_weighted` is the weighted
score of TREC RAG 2024 (arXiv 2411.09607): as `nugget_all`, but an okay nugget weighs half of a vital one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qilin_rag.core.judged_answers import AssignedNugget, Importance, Support

NUGGET_METRICS = ("nugget_all", "nugget_strict_all", "nugget_vital", "nugget_strict_vital", "nugget_weighted")
NO_VITAL = "no vital nuggets"
_LENIENT: Mapping[Support, float] = {"support": 1.0, "partial_support": 0.5, "not_support": 0.0}
_STRICT: Mapping[Support, float] = {"support": 1.0, "partial_support": 0.0, "not_support": 0.0}
_WEIGHTS: Mapping[Importance, float] = {"vital": 1.0, "okay": 0.5}


def nugget_scores(nuggets: Sequence[AssignedNugget]) -> dict[str, float]:
    """Return the figures of one answer by metric; 0 if there are no nuggets of the kind, as in nuggetizer.

    >>> held = AssignedNugget(text="a", importance="vital", assignment="support")
    >>> half = AssignedNugget(text="b", importance="okay", assignment="partial_support")
    >>> nugget_scores([held, half])["nugget_all"]
    0.75
    """
    vital = [nugget for nugget in nuggets if nugget.importance == "vital"]
    weights = [_WEIGHTS[nugget.importance] for nugget in nuggets]
    return dict(
        zip(
            NUGGET_METRICS,
            (
                _mean(_LENIENT[nugget.assignment] for nugget in nuggets),
                _mean(_STRICT[nugget.assignment] for nugget in nuggets),
                _mean(_LENIENT[nugget.assignment] for nugget in vital),
                _mean(_STRICT[nugget.assignment] for nugget in vital),
                _mean((_LENIENT[nugget.assignment] for nugget in nuggets), weights),
            ),
            strict=True,
        )
    )


def _mean(values: Iterable[float], weights: Sequence[float] | None = None) -> float:
    values = list(values)
    weights = weights or [1.0] * len(values)
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else 0.0
