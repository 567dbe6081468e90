"""From samples and scores to the figures of a run: a pure function, so that a resumed run ends like any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from qilin_rag.stats import bootstrap_ci95, standard_error
from qilin_rag.types import MetricSummary, Sample, Score, Summary, Usage


def summarise(
    samples: Sequence[Sample],
    lines: Sequence[Sample],
    scores: Sequence[Score],
    signatures: Mapping[str, str],
    seed: int = 0,
) -> Summary:
    """The figures of a run from its samples (one a question), all lines ever written (for usage), and its scores."""
    values: dict[str, list[float]] = {metric: [] for metric in signatures}
    for score in scores:
        if score.value is not None:
            values[score.metric].append(score.value)
    counts = {"questions": len(samples)} | {
        status: sum(sample.status == status for sample in samples)
        for status in ("ok", "failed", "filtered", "truncated")
    }
    return Summary(
        metrics={
            metric: _summarise_metric(np.array(values[metric]), len(samples), signature, seed)
            for metric, signature in signatures.items()
        },
        counts=counts,
        usage=Usage(
            prompt_tokens=_total(line.usage.prompt_tokens for line in lines),
            completion_tokens=_total(line.usage.completion_tokens for line in lines),
        ),
    )


def _summarise_metric(values: npt.NDArray[np.float64], n_questions: int, signature: str, seed: int) -> MetricSummary:
    n = len(values)
    return MetricSummary(
        value=float(values.mean()) if n else None,
        n=n,
        n_unscored=n_questions - n,
        value_unscored_as_zero=float(values.sum() / n_questions) if n_questions else None,
        stderr=standard_error(values),
        ci95=bootstrap_ci95(values, seed),
        signature=signature,
    )


def _total(counts: Iterable[int | None]) -> int | None:
    """The sum of what is known; None where nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
