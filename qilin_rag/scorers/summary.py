"""Sum up the scores of a run: the figure of each metric, and what is remarkable about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, get_args

import numpy as np
import numpy.typing as npt

from qilin_rag.core.stats import Clusters, mean_bounds, standard_error
from qilin_rag.core.types import SCALE, Mark, MetricSummary, Score, Status, Summary
from qilin_rag.scorers.table import ScoreColumn

H = TypeVar("H", bound=str)


def can_exceed_1(signature: str) -> bool:
    """Return whether figures of a metric can be above 1: ratios of lengths, and judges' marks."""
    return signature.startswith("length_ratio|") or f"|{SCALE[0]}-{SCALE[1]}|" in signature


def summarise_metrics(
    metrics: Mapping[str, Sequence[Score]], clusters: Clusters | None = None, seed: int = 0
) -> dict[str, MetricSummary]:
    """Summarise each metric over its scores.

    Args:
        metrics: The scores by metric, all of the same questions in the same order.
        clusters: The cluster of each question, (n_questions,); None if each is its own.
        seed: Of the resamples.
    """
    if not metrics:
        return {}
    values = as_values(list(metrics.values()))
    unbounded = [i for i, scores in enumerate(metrics.values()) if scores and can_exceed_1(scores[0].signature)]
    bounds = mean_bounds(values, clusters, seed, unbounded)
    summaries = {}
    for (metric, scores), column, (interval, no_interval) in zip(metrics.items(), values.T, bounds, strict=True):
        is_scored = ~np.isnan(column)
        scored = column[is_scored]
        summaries[metric] = MetricSummary(
            value=float(scored.mean()) if len(scored) else None,
            n=len(scored),
            n_unscored=len(scores) - len(scored),
            value_unscored_as_zero=float(scored.sum() / len(scores)),
            stderr=standard_error(scored, None if clusters is None else clusters[is_scored]),
            ci95=(interval.low, interval.high) if interval else None,
            ci95_method=interval.method if interval else None,
            no_interval=no_interval,
            signature=scores[0].signature,
            reasons=_count_reasons(scores),
        )
    return summaries


def _count_reasons(scores: Sequence[Score]) -> dict[str, int]:
    if isinstance(scores, ScoreColumn):
        return scores.count_reasons()
    return dict(sorted(Counter(score.reason for score in scores if score.reason).items()))


MARKS: dict[Mark, str] = {
    "maybe_cut": "maybe cut off: ended at the most tokens that were asked for, or beyond",
    "odd_ending": "ended for a reason that is neither a stop nor a limit",
    "maybe_thinking": "may hold thinking, or lack what stood before a marker (see thinking_markers of the LLM)",
}


def doubts(summary: Summary) -> list[str]:
    """Return remarks on the figures of a run: why replies were empty, and what is doubtful about answers."""
    why, endings = (
        ", ".join(f"{reason} ({n})" for reason, n in counts.items())
        for counts in (summary.why_empty, summary.odd_endings)
    )
    named: dict[Mark, str] = {"odd_ending": f": {endings}"} if endings else {}
    marks = [f"{n} answered, but {MARKS[mark]}{named.get(mark, '')}" for mark, n in summary.marks.items()]
    return [f"empty: {why}", *marks] if why else marks


def as_values(columns: Sequence[Sequence[Score]]) -> npt.NDArray[np.float64]:
    """Return scores as (n, n_columns), NaN for unscored ones."""
    return np.array([_values(scores) for scores in columns]).T


def _values(scores: Sequence[Score]) -> Sequence[float]:
    if isinstance(scores, ScoreColumn):
        return scores.values
    return [math.nan if score.value is None else score.value for score in scores]


def remarks(metrics: Mapping[str, MetricSummary]) -> list[str]:
    """Return remarks on the figures, "bertscore: cut to 512 tokens (3 of 60)"; metrics with the same remark share it.

    Statuses are left out, because they are counted for the run as a whole (`doubts`).
    """
    said: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        for reason, n in metric.reasons.items():
            if reason not in get_args(Status):
                said.setdefault(f"{reason} ({n} of {metric.n + metric.n_unscored})", []).append(name)
        if metric.n and metric.no_interval:
            said.setdefault(f"no 95% interval, {metric.no_interval}", []).append(name)
    return [f"{', '.join(names)}: {remark}" for remark, names in said.items()]


def counted_by_kind(found: Iterable[H]) -> dict[H, int]:
    """Count items by kind, in the order of the kinds' names."""
    return dict(sorted(Counter(found).items()))
