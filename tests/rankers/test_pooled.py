"""Figures of the whole set: as scikit-learn and a direct reading have them, with intervals that hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.types import Hit, Question
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.rankers.biencoder import BiEncoder
from qilin_rag.rankers.bm25 import BM25
from qilin_rag.rankers.crossencoder import CrossEncoder
from qilin_rag.rankers.dcn_v2 import DCNV2
from qilin_rag.rankers.pooled import pooled_figures
from qilin_rag.rankers.simple import Production, Random
from qilin_rag.rankers.vlm import VLM

OWN = np.arange(10_000)


def drawn(n: int, seed: int = 0, steps: int = 20, n_users: int = 7) -> tuple[Requests, Any]:
    """Requests of users whose scores are rounded logits of a click, so that many are tied."""
    rng = np.random.default_rng(seed)
    questions, rankings = [], []
    scores: dict[tuple[int, int], float] = {}
    for i in range(n):
        notes = rng.choice(1000, rng.integers(1, 12), replace=False)
        logits = np.round(rng.normal(-1, 1.5, len(notes)) * steps / 10) * 10 / steps
        clicks = rng.random(len(notes)) < 1 / (1 + np.exp(-logits + rng.normal(0, 0.5)))
        clicked = notes[clicks].tolist()
        questions.append(Question(id=str(i), query=f"q{i}", references=["-"], reference_notes=clicked))
        rankings.append([Hit(note_idx=int(note), score=0, rank=rank) for rank, note in enumerate(notes, 1)])
        scores |= {(i, int(note)): logit for note, logit in zip(notes, logits, strict=True)}
    requests = replace(requests_of(questions, rankings), user_idx=rng.integers(-1, n_users, n))
    rows = zip(requests.request.tolist(), requests.note_idx.tolist(), strict=True)
    return requests, np.array([scores[row] for row in rows], np.float32)


def weighted(metrics: Any, group: Any, clicked: Any, scores: Any) -> float:
    """GAUC, group by group."""
    above, below = 0.0, 0
    for each in set(group[group >= 0].tolist()):
        rows = group == each
        if 0 < clicked[rows].sum() < rows.sum():
            above += rows.sum() * metrics.roc_auc_score(clicked[rows], scores[rows])
            below += rows.sum()
    return above / below


@pytest.mark.parametrize("steps", [2, 20])
def test_they_are_those_of_scikit_learn(steps: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")
    requests, scores = drawn(80, steps=steps)
    found = {name: of.value for name, of in pooled_figures(requests, scores, OWN[:80], None).items()}
    clicked, user = requests.clicked, requests.user_idx[requests.request]
    probability = 1 / (1 + np.exp(-scores.astype(np.float64)))
    assert len(np.unique(scores)) < len(scores) / 2
    assert found == pytest.approx(
        {
            "auc": metrics.roc_auc_score(clicked, scores),
            "gauc_request": weighted(metrics, requests.request, clicked, scores),
            "gauc_user": weighted(metrics, user, clicked, scores),
            "logloss": metrics.log_loss(clicked, probability),
            "calibration": probability.sum() / clicked.sum(),
        },
        abs=1e-12,
    )


def test_standard_errors_are_those_of_drawing_clusters_again() -> None:
    requests, scores = drawn(300)
    clusters = np.arange(300) // 2
    found = pooled_figures(requests, scores, clusters, None)
    rng = np.random.default_rng(1)
    values: dict[str, list[float]] = {}
    for _ in range(200):
        chosen = rng.integers(0, 150, 150)
        rows = np.sort(np.concatenate([2 * chosen, 2 * chosen + 1]))
        again = requests.take(rows)
        places = np.concatenate([np.arange(*requests.offsets[[row, row + 1]]) for row in rows])
        with pytest.MonkeyPatch.context() as patch:  # only the values are needed
            patch.setattr("qilin_rag.rankers.pooled.paired_tests", lambda values, _: [_NoTest] * values.shape[1])
            for name, of in pooled_figures(again, scores[places], OWN[:300], None).items():
                values.setdefault(name, []).append(of.value or 0)
    for name in ("auc", "gauc_request", "logloss", "calibration"):
        assert found[name].stderr == pytest.approx(np.std(values[name]), rel=0.2), name
        low, high = found[name].ci95 or (0, 0)
        assert high - low == pytest.approx(2 * 1.96 * np.std(values[name]), rel=0.25), name
        assert low < (found[name].value or 0) < high


class _NoTest:
    interval, no_interval = None, "not tested"


def test_what_can_not_be_had_says_why() -> None:
    requests, scores = drawn(30)
    nobody = replace(requests, user_idx=np.full(30, -1))
    found = pooled_figures(nobody, scores, OWN[:30], "they are ranks")
    assert (found["gauc_user"].value, found["gauc_user"].missing) == (None, "no request has a user")
    assert found["logloss"].missing == found["calibration"].missing == "they are ranks"
    assert "lack a clicked or an unclicked candidate" in (found["gauc_request"].left_out or "")
    for clicked in (np.zeros_like(requests.clicked), np.ones_like(requests.clicked)):
        found = pooled_figures(replace(requests, clicked=clicked), scores, OWN[:30], None)
        assert found["auc"].missing == "not both a clicked and an unclicked candidate"
        assert found["gauc_request"].missing and found["gauc_user"].missing
        assert (found["calibration"].missing is None) == bool(clicked.any())
    few = pooled_figures(*drawn(5), OWN[:5], None)
    assert few["auc"].value is not None and few["auc"].ci95 is None and "too few" in (few["auc"].no_interval or "")


def test_rankers_declare_whether_they_predict_clicks() -> None:
    predict = {
        "crossencoder": CrossEncoder(),
        "vlm": VLM(),
        "dcn-v2": DCNV2(debias="none"),
        "dcn-v2 without positions": DCNV2(without=("position",)),
    }
    others = (DCNV2(), DCNV2(debias="ipw"), BiEncoder(), BM25(), Random(), Production())
    assert all(ranker.is_click_logit for ranker in predict.values())
    assert not any(ranker.is_click_logit for ranker in others)


def test_extreme_logits_are_finite() -> None:
    requests, scores = drawn(30)
    found = pooled_figures(requests, scores * 1e6, OWN[:30], None)
    assert found["logloss"].value and np.isfinite(found["logloss"].value)
    assert found["calibration"].value is not None


def test_users_that_are_unknown_are_counted() -> None:
    requests, scores = drawn(60)
    n_unknown = int((requests.user_idx < 0).sum())
    figure = pooled_figures(requests, scores, OWN[:60], None)["gauc_user"]
    assert n_unknown > 0 and f"{n_unknown} requests without a user" in (figure.left_out or "")
    assert (figure.unit, figure.n) == ("users", 6)
    assert "1 of 7 users, which lack a clicked or an unclicked candidate" in (figure.left_out or "")
