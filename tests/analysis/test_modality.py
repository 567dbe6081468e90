"""Which type is clicked: shares by hand, and a model that gains where queries tell, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis.covariates import covariates_of
from qilin_rag.analysis.log import IMAGE_TEXT, VIDEO, Log, NoteFacts
from qilin_rag.analysis.modality import modality
from qilin_rag.core.errors import UsageError
from qilin_rag.data.exposures import Exposures

N_USERS, N_SEARCHES, N_RESULTS = 60, 500, 6


def made_log(is_told: bool) -> Log:
    """Users who ask 怎么 click videos alone, the others notes of both kinds alike; `is_told`: the query says which."""
    rng = np.random.default_rng(0)
    asks = rng.random(N_SEARCHES) < 0.5
    words = np.where(asks if is_told else rng.random(N_SEARCHES) < 0.5, "怎么做", "推荐")
    topics = rng.choice(["早餐", "旅行", "化妆"], N_SEARCHES)
    note_idx = np.arange(N_SEARCHES * N_RESULTS)
    kinds = rng.choice([IMAGE_TEXT, VIDEO], len(note_idx))
    request = np.repeat(np.arange(N_SEARCHES), N_RESULTS)
    clicked = np.where(asks[request], kinds == VIDEO, True) & (rng.random(len(note_idx)) < 0.4)
    actions = np.zeros((len(note_idx), 5), bool)
    actions[:, 0] = clicked
    none = np.zeros(N_SEARCHES, np.int64)
    shown = Exposures(
        ids=list(map(str, range(N_SEARCHES))),
        queries=[f"{topic}{word}" for topic, word in zip(topics, words, strict=True)],
        is_search=np.ones(N_SEARCHES, bool),
        user_idx=np.sort(rng.integers(N_USERS, size=N_SEARCHES)),
        session_idx=none,
        source=none,
        time_ms=np.arange(N_SEARCHES) * 10_000_000,
        answered=np.zeros(N_SEARCHES, bool),
        recent_offsets=np.zeros(N_SEARCHES + 1, np.int64),
        recent=np.zeros(0, np.int64),
        offsets=np.arange(N_SEARCHES + 1) * N_RESULTS,
        note_idx=note_idx,
        position=np.tile(np.arange(1, N_RESULTS + 1), N_SEARCHES),
        actions=actions,
        page_time_s=np.full(len(actions), -1, np.float32),
    )
    return Log(shown, np.zeros(N_SEARCHES, bool), NoteFacts(note_idx, kinds, np.ones(len(note_idx), np.int64)))


def test_where_queries_tell_the_model_gains_and_is_calibrated() -> None:
    log = made_log(is_told=True)
    queries, model, calibration = modality(log, None)
    is_video, clicked = log.note_type == VIDEO, log.clicked
    asking = np.array(["怎么" in query for query in log.shown.queries])[log.shown.request]
    row = queries.values[queries.rows.index("asks")]
    assert row[:3] == [int((clicked & asking).sum()), is_video[asking].mean(), 1.0]
    assert row[3] == pytest.approx(1 / is_video[asking].mean())
    others = queries.values[queries.rows.index("does not ask")]
    assert others[2] == pytest.approx(is_video[clicked & ~asking].mean())
    names = model.rows
    gain = model.interval(names.index("model of the query"), 1)
    assert gain is not None and gain[0] > 0.05
    best = model.values[names.index("model of the query and the results")]
    assert best[0] is not None and best[0] < min(values[0] or 9 for values in model.values[:2])
    base = model.values[0]
    share = is_video[clicked].mean()
    assert base[0] == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share))
    assert base[1] == 0 and base[3] == 0.5
    assert sum(values[0] or 0 for values in calibration.values) == clicked.sum()
    assert all(abs((values[1] or 0) - (values[2] or 0)) < 0.2 for values in calibration.values)


def test_where_they_do_not_it_gains_nothing() -> None:
    _, model, _ = modality(made_log(is_told=False), None)
    gain = model.interval(model.rows.index("model of the query"), 1)
    assert gain is not None and gain[0] < 0.005


def test_queries_without_characters_in_common_say_nothing() -> None:
    log = made_log(is_told=True)
    for queries in ([""] * N_SEARCHES, list(map(chr, range(0x4E00, 0x4E00 + N_SEARCHES)))):
        covariates = covariates_of(
            Log(replace(log.shown, queries=queries), log.is_dqa, log.notes), None, np.arange(N_SEARCHES), 0
        )
        assert covariates.names == ["hour (sine)", "hour (cosine)"]
        assert np.isfinite(covariates.values).all()


def test_requests_without_a_user_are_not_of_one() -> None:
    log = made_log(is_told=True)

    def width(user_idx: npt.NDArray[np.int64]) -> float:
        by_query, _, _ = modality(Log(replace(log.shown, user_idx=user_idx), log.is_dqa, log.notes), None)
        found = by_query.interval(0, 2)
        assert found
        return found[1] - found[0]

    assert width(np.full(N_SEARCHES, -1)) == pytest.approx(width(np.arange(N_SEARCHES)), rel=0.1)


def test_too_few_clicks_are_said() -> None:
    log = made_log(is_told=True)
    few = np.arange(20)
    with pytest.raises(UsageError, match="100 of each are needed"):
        modality(Log(log.shown.take(few), log.is_dqa[few], log.notes), None)


def test_clicks_of_few_users_are_said() -> None:
    log = made_log(is_told=True)
    asks = np.array(["怎么" in query for query in log.shown.queries])
    with pytest.raises(UsageError, match="image-text notes by 4 users: 5 are needed"):
        modality(
            Log(replace(log.shown, user_idx=np.where(asks, 100, np.arange(N_SEARCHES) % 4)), log.is_dqa, log.notes),
            None,
        )


def test_a_share_of_one_has_an_interval_and_one_of_few_users_none() -> None:
    """Who asks clicks videos alone: 100% of the clicks, which is not known to the last digit."""
    log = made_log(is_told=True)
    queries, _, _ = modality(log, None)
    low, high = queries.interval(queries.rows.index("asks"), 2) or (0, 0)
    assert 0.8 < low < 0.99 and high == 1
    rare = np.where(log.shown.user_idx < 4, 3, 1)
    queries, _, _ = modality(Log(replace(log.shown, source=rare), log.is_dqa, log.notes), None)
    at = next(at for at, name in enumerate(queries.rows) if name.startswith("3 "))
    assert (queries.values[at][0] or 0) > 10 and queries.interval(at, 2) is None
