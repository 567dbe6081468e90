"""Sum up the calls of a run: seconds for each call, and what cached answers cost when they were first asked."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines
from qilin_rag.core.text import counted
from qilin_rag.core.types import Cost, Frozen, Usage
from qilin_rag.pipeline.cost import format_cost, price_of, tokens_cost
from qilin_rag.pipeline.run_directory import SAMPLES, Manifest, RunDirectory

logger = logging.getLogger(__name__)


class Latency(Frozen):
    """The seconds of the `n` calls that were made: their median and 95th percentile."""

    n: NonNegativeInt
    median_s: FiniteFloat
    p95_s: FiniteFloat

    def __str__(self) -> str:
        times = f"median {self.median_s:.2f} s, 95th percentile {self.p95_s:.2f} s"
        return f"latency: {times} ({counted(self.n, 'call')})"


class FirstAsked(Frozen):
    """The tokens and cost of the `n` cached answers, when they were first asked."""

    n: NonNegativeInt
    prompt_tokens: NonNegativeInt | None
    completion_tokens: NonNegativeInt | None
    cost: Cost

    def __str__(self) -> str:
        counts = [format(n, ",") if n is not None else "unknown" for n in (self.prompt_tokens, self.completion_tokens)]
        tokens = f"{counts[0]} prompt + {counts[1]} completion tokens"
        what = f"{counted(self.n, 'answer')} from the cache"
        return f"{what}; when first asked: {tokens}, cost {format_cost(self.cost)}"


class TimedCall(Protocol):
    """The fields of a sample that are read here."""

    @property
    def usage(self) -> Usage:
        """Return its tokens."""

    @property
    def latency_s(self) -> float | None:
        """Return its seconds; 0 or None if they were not measured."""

    @property
    def cached(self) -> bool:
        """Return whether it came from the cache."""


class _Call(BaseModel):
    """The part of a line of samples.jsonl that is read here; the rest, which is long, is skipped."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question_id: str
    usage: Usage = Usage()
    latency_s: FiniteFloat | None = 0.0
    cached: bool = False


def read_calls(directory: RunDirectory) -> list[TimedCall]:
    """Read the last call of each question of a run; none of a damaged file, which the log reports."""
    lines = read_lines(directory.path / SAMPLES, _Call, half_line_ok=True)
    try:
        return list({line.question_id: line for line in lines}.values())
    except UsageError as error:
        logger.warning("no seconds and no cached answers of a run: %s", error)
        return []


def latency_of(calls: Iterable[TimedCall]) -> Latency | None:
    """Return the seconds for each call, over the measured ones; None if there are none."""
    seconds = [call.latency_s for call in calls if call.latency_s and call.latency_s > 0 and not call.cached]
    if not seconds:
        return None
    median_s, p95_s = (round(float(value), 3) for value in np.percentile(seconds, (50, 95)))
    return Latency(n=len(seconds), median_s=median_s, p95_s=p95_s)


def first_asked(calls: Iterable[TimedCall], manifest: Manifest) -> FirstAsked | None:
    """Return what a run's cached answers used at first, at the run's own price list; None if there are none."""
    cached = [call.usage for call in calls if call.cached]
    if not cached:
        return None
    prompt, completion = (
        None if None in counts else sum(filter(None, counts))
        for counts in ([usage.prompt_tokens for usage in cached], [usage.completion_tokens for usage in cached])
    )
    if prompt is None or completion is None:
        cost = Cost(unknown="answers without a count of tokens")
    else:
        in_providers_cache = sum(usage.cached_tokens or 0 for usage in cached)
        usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=in_providers_cache)
        cost = tokens_cost(usage, price_of(manifest))
    return FirstAsked(n=len(cached), prompt_tokens=prompt, completion_tokens=completion, cost=cost)
