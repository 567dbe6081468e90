"""What a bi-encoder learns in synthetic worlds whose clicks have known causes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.data.exposures import concat
from qilin_rag.data.requests import TASKS, Requests, Split
from qilin_rag.rankers.bm25 import BM25
from tests.rankers.conftest import Made, MakeWorld, chance_mrr, mrr, p_of
from tests.rankers.tiny_bert import write_tiny_bert

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("datasets", reason="needs datasets: pip install 'qilin-rag[rankers]'")
pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from qilin_rag.rankers.biencoder import BiEncoder
from qilin_rag.rankers.trained import load_ranker
from qilin_rag.rankers.training import train_ranker

pytestmark = pytest.mark.slow

COUNTS = {"notes": 400, "searches": 2000, "recommendations": 50, "dqa": 0, "users": 100}
SETTINGS = (
    *(f"causes.{cause}=0" for cause in ("topical", "taste", "popularity", "position", "cover")),
    *("causes.synonym=4", "causes.lexical=2", "search.intercept=-3", "search.depth=15"),
    *("same_concept=0.3", "same_topic=0.3", "test_searches=0.2"),
    *("lengths={3: 0.5, 4: 0.5}", "median_tokens=6", "sigma_tokens=0.3"),
)
"""Few concepts, each asked for often; queries and notes so short that a tiny model reads all of them."""
SPLITS: tuple[Split, ...] = ("train", "validation")


def train(world: Made, requests: Requests, validation: Requests, folder: Path, **settings: Any) -> Any:
    """A bi-encoder from random weights."""
    texts = (note.text for note in world.catalogue.notes)
    given: dict[str, Any] = {
        "model": str(write_tiny_bert(folder / "tiny", texts)),
        "device": "cpu",
        "max_length": 16,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "n_negatives": 4,
        "evaluate_every": 150,
        "max_steps": 150,
    }
    train_ranker(BiEncoder(**given | settings), requests, validation, world.catalogue, folder / "out")
    return load_ranker(folder / "out", device="cpu")


def figures(world: Made, folder: Path) -> tuple[Any, Any]:
    """The reciprocal ranks on test of a bi-encoder and of bm25."""
    ranker = train(world, world.requests("search", "train"), world.requests("search", "validation"), folder)
    test = world.requests("search", "test")
    return tuple(mrr(test, one.score(test, world.catalogue)) for one in (ranker, BM25()))


def test_it_gains_by_synonyms(make_world: MakeWorld, tmp_path: Path) -> None:
    """Two names of one thing share no character, so bm25 can't know; where they cause no click, nothing is gained."""
    mine, bm25 = figures(make_world(COUNTS, *SETTINGS), tmp_path / "with")
    assert p_of(mine, bm25) < 0.05
    mine, bm25 = figures(make_world(COUNTS, *SETTINGS, without=["synonym"]), tmp_path / "without")
    assert p_of(mine, bm25) >= 0.05


def test_from_shuffled_labels_it_learns_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    """Clicks and queries are shuffled: the notes of other requests teach what is *shown* for a query, not just clicks.

    With the clicks alone shuffled, the figure on this test is above chance by as much as what is shown tells.
    """
    world = make_world(COUNTS, *SETTINGS)

    def shuffled(requests: Requests) -> Requests:
        rng = np.random.default_rng(0)
        queries = [requests.queries[row] for row in rng.permutation(len(requests))]
        return replace(requests, queries=queries, clicked=rng.permutation(requests.clicked))

    train_requests, validation = (shuffled(world.requests("search", split)) for split in SPLITS)
    ranker = train(world, train_requests, validation, tmp_path, max_steps=60)
    test = world.requests("search", "test")
    mean, deviation = chance_mrr(test)
    assert abs(mrr(test, ranker.score(test, world.catalogue)).mean() - mean) < 3 * deviation


JOINT_COUNTS = COUNTS | {"searches": 1500, "recommendations": 6000}
JOINT_SETTINGS = (
    *(*SETTINGS, "causes.taste=4", "recommendation.intercept=-3", "recommendation.depth=15"),
    "test_recommendations=0.3",
)
"""What a recommendation gains is small (.05): many are tested, so that chance's deviation is smaller."""


def test_jointly_trained_it_ranks_searches_and_recommendations(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(JOINT_COUNTS, *JOINT_SETTINGS)
    both, validation = (concat([world.requests(task, split) for task in TASKS]) for split in SPLITS)
    ranker = train(world, both, validation, tmp_path, max_length=48)
    for task in TASKS:
        test = world.requests(task, "test")
        mean, deviation = chance_mrr(test)
        assert mrr(test, ranker.score(test, world.catalogue)).mean() > mean + 3 * deviation
