"""Synthetic worlds whose clicks have known causes, each made once a session; tests of two rankers on one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from qilin_rag.core import stats
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.requests import Floats, Requests, Split, TaskName, read_requests
from qilin_rag.data.source import Source, open_source
from qilin_rag.rankers.metrics import figures_of
from qilin_rag.synth import resolve_world, synthesize


class Made(NamedTuple):
    """A synthetic Qilin on disk."""

    folder: Path
    source: Source
    catalogue: Catalogue

    def requests(self, task: TaskName, split: Split) -> Requests:
        return read_requests(self.source, task, split, validation_share=0.1)


MakeWorld = Callable[..., Made]


@pytest.fixture(scope="session")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> MakeWorld:
    """`make_world(counts, *settings, without=[...], images=False, seed=0)`; settings as `synth --set` takes them."""
    made: dict[str, Made] = {}

    def make(
        counts: dict[str, int], *settings: str, without: Sequence[str] = (), images: bool = False, seed: int = 0
    ) -> Made:
        key = repr((counts, settings, without, images, seed))
        if key not in made:
            folder = tmp_path_factory.mktemp("world") / "out"
            synthesize(resolve_world(counts, seed, without, settings), folder, images)
            source = open_source(str(folder))
            made[key] = Made(folder, source, open_catalogue(source))
        return made[key]

    return make


def mrr(requests: Requests, scores: Floats) -> Any:
    """The reciprocal rank (at 10) of each request that has a click, shape (n_clicked_requests,)."""
    return np.array([figures["mrr@10"] for figures in figures_of(requests, scores) if figures])


def p_of(better: Any, other: Any) -> float:
    """Of the paired permutation test that their means are the same; 1 where the first is not the higher one."""
    if better.mean() <= other.mean():
        return 1.0
    clusters = np.arange(len(better))
    found = stats.permutation_test((better - other)[:, None], clusters)[0]
    assert found is not None
    return found


def chance_mrr(requests: Requests) -> tuple[float, float]:
    """What random orders give on these requests: the mean MRR@10 of 100 of them, and its standard deviation."""
    rng = np.random.default_rng(0)
    means = [mrr(requests, rng.random(requests.n_candidates).astype(np.float32)).mean() for _ in range(100)]
    return float(np.mean(means)), float(np.std(means))
