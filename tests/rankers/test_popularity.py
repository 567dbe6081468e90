"""Popularity and item-to-item: counts by a slow reading, cosines by scikit-learn, and nothing of the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.clicks import ClickLog, Kind, histories
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.popularity import ItemToItem, Popularity
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import rank
from qilin_rag.rankers.simple import Random
from qilin_rag.rankers.split_log import SplitLog, click_log
from qilin_rag.synth import resolve_world, synthesize
from tests.data.test_clicks import KINDS, random_requests
from tests.rankers.conftest import Made, MakeWorld, mrr, p_of

RANKERS = (Popularity(), ItemToItem(), ItemToItem(clicks_of="search"))


def catalogue_with(log: ClickLog) -> Catalogue:
    return Catalogue(None, None, log)  # type: ignore[arg-type]


def logged(seed: int) -> tuple[Requests, ClickLog]:
    table = random_requests(150, seed, n_users=9)
    return table, click_log([table], [np.random.default_rng(seed).random(150) < 0.7])


@pytest.mark.parametrize("kind", KINDS)
def test_popularity_by_a_slow_reading(kind: Kind) -> None:
    _, log = logged(0)
    asked = random_requests(40, 9)
    scores = Popularity(clicks_of=kind).score(asked, catalogue_with(log))
    for at, (request, note) in enumerate(zip(asked.request, asked.note_idx, strict=True)):
        is_counted = log.is_train & (log.note_idx == note) & (log.time_ms < asked.time_ms[request])
        if kind != "both":
            is_counted &= log.is_search == (kind == "search")
        assert scores[at] == is_counted.sum()
    assert scores.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [3, 50])
def test_item_to_item_is_the_sum_of_scikit_learns_cosines(kind: Kind, length: int) -> None:
    pairwise = pytest.importorskip(
        "sklearn.metrics.pairwise", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'"
    )
    _, log = logged(1)
    asked = random_requests(40, 8)
    scores = ItemToItem(clicks_of=kind, history_length=length).score(asked, catalogue_with(log))
    past = histories(asked, log, length, kind)
    for row in range(len(asked)):
        is_counted = log.is_train & (log.time_ms < asked.time_ms[row])
        if kind != "both":
            is_counted &= log.is_search == (kind == "search")
        clicked = np.zeros((12, 9))
        clicked[log.note_idx[is_counted], log.user_idx[is_counted]] = 1
        cosines = pairwise.cosine_similarity(clicked)
        history = sorted(set(past.note_idx[past.offsets[row] : past.offsets[row + 1]].tolist()))
        for at in range(asked.offsets[row], asked.offsets[row + 1]):
            assert scores[at] == pytest.approx(cosines[asked.note_idx[at], history].sum(), abs=1e-6)
    assert scores.any()


@pytest.mark.parametrize("ranker", RANKERS, ids=str)
def test_a_click_at_or_after_the_request_changes_nothing(ranker: Ranker) -> None:
    table, log = logged(2)
    asked = random_requests(25, 7)
    before = ranker.score(asked, catalogue_with(log))
    for row in np.flatnonzero(asked.time_ms >= 0):
        future = random_requests(60, 6, n_users=9)
        future = replace(future, time_ms=asked.time_ms[row] + np.maximum(future.time_ms, 0))
        more = click_log(
            [table, future], [np.random.default_rng(2).random(150) < 0.7, np.ones(60, bool)]
        )  # as train, too
        after = ranker.score(asked.take(np.array([row])), catalogue_with(more))
        assert after.tolist() == before[asked.offsets[row] : asked.offsets[row + 1]].tolist()


@pytest.mark.parametrize("ranker", RANKERS, ids=str)
def test_neither_the_clicks_of_the_request_nor_the_size_of_ids_is_read(ranker: Ranker) -> None:
    _, log = logged(3)
    asked = random_requests(25, 5)
    before = ranker.score(asked, catalogue_with(log))
    assert np.array_equal(ranker.score(replace(asked, clicked=~asked.clicked), catalogue_with(log)), before)
    renamed = np.random.default_rng(0).permutation(12) * 1000
    other_log = replace(log, note_idx=renamed[log.note_idx])
    others = replace(asked, note_idx=renamed[asked.note_idx], recent=renamed[asked.recent])
    assert ranker.score(others, catalogue_with(other_log)) == pytest.approx(before, abs=1e-6)


def test_clicks_of_test_requests_are_history_and_never_counted() -> None:
    table = random_requests(150, 4, n_users=9)
    asked = random_requests(40, 3)
    log = click_log([table], [table.time_ms >= 30])
    assert np.diff(histories(asked, log, 50).offsets).any()
    for ranker in RANKERS:
        assert not ranker.score(asked.take(asked.time_ms <= 30), catalogue_with(log)).any()


def test_without_clicks_it_is_said() -> None:
    asked = random_requests(3, 0)
    with pytest.raises(UsageError, match="popularity reads clicks"):
        Popularity().score(asked, Catalogue(None))  # type: ignore[arg-type]
    for ranker in RANKERS:
        with pytest.raises(UsageError, match=r"none of the 9 clicks of the data is in train.*clicks_of"):
            ranker.score(asked, catalogue_with(click_log([random_requests(9, 1)], [np.zeros(9, bool)])))


TASTE = ("causes.taste=4", "causes.position=0", "causes.cover=0", "causes.popularity=0", "taste_topics=1")
COUNTS = {"notes": 600, "searches": 100, "recommendations": 2400, "dqa": 20, "users": 100}


def world_of_taste(make_world: MakeWorld, is_planted: bool) -> Made:
    """Recommendations whose clicks are by taste alone, or without a cause; about as many of them are clicked."""
    intercept = -3 if is_planted else -1.2
    return make_world(COUNTS, *TASTE, f"recommendation.intercept={intercept}", without=[] if is_planted else ["taste"])


def scored(ranker: Ranker, made: Made) -> tuple[Requests, Floats]:
    log = SplitLog(made.source, 0.1)
    test = log.split("recommendation", "test")
    return test, ranker.score(test, made.catalogue._replace(clicks=log.clicks(["recommendation"], "test")))


@pytest.mark.parametrize("is_planted", [True, False])
def test_item_to_item_gains_by_taste_and_loses_it_without(make_world: MakeWorld, is_planted: bool) -> None:
    made = world_of_taste(make_world, is_planted)
    found = {type(ranker): mrr(*scored(ranker, made)) for ranker in (Popularity(), ItemToItem(), Random())}
    gain = found[ItemToItem] - found[Popularity]
    half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    if is_planted:
        assert gain.mean() - half > 0.05
        assert p_of(found[ItemToItem], found[Random]) < 0.001
    else:
        assert abs(gain.mean()) < half
        assert p_of(found[ItemToItem], found[Random]) >= 0.05
    assert p_of(found[Popularity], found[Random]) >= 0.05


def test_rank_by_clicks(tmp_path: Path) -> None:
    """The clicks are part of a ranking's identity if they are read; each user's last request is a split."""
    counts = {"notes": 300, "searches": 80, "recommendations": 80, "dqa": 10, "users": 12}
    synthesize(resolve_world(counts, 0), tmp_path / "world")
    config = RankConfig(data=str(tmp_path / "world"), task="recommendation", candidates="sampled:20")
    by_clicks, by_chance = rank(Popularity(), config), rank(Random(), config)
    assert len(by_clicks.manifest.identity["clicks"]) == 64 and "clicks" not in by_chance.manifest.identity
    assert rank(Popularity(), config).directory.path == by_clicks.directory.path
    last = rank(ItemToItem(), config.model_copy(update={"split": "last"}))
    assert 0 < last.summary.counts["requests"] <= 12
    assert not last.summary.counts["without_click"]
    validation = rank(ItemToItem(), config.model_copy(update={"split": "validation", "candidates": "exposed"}))
    assert validation.manifest.identity["clicks"] != by_clicks.manifest.identity["clicks"]
