"""Clicked candidates among unclicked ones: AUC as scikit-learn has it, and sampled figures over every order."""

from __future__ import annotations

import itertools
import math
from statistics import mean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_rag.core.types import Hit, Question
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.rankers.placements import HITS, SAMPLED_MRR, SAMPLED_NDCG, auc_by_group, place, sampled_figures


def requests_like(made: list[list[tuple[bool, float]]]) -> tuple[Requests, Any]:
    """Requests with one candidate for each (click, score)."""
    questions = [
        Question(
            id=f"r{i}", query="", references=["-"], reference_notes=[n for n, (click, _) in enumerate(results) if click]
        )
        for i, results in enumerate(made)
    ]
    rankings = [[Hit(note_idx=n, score=0, rank=n + 1) for n in range(len(results))] for results in made]
    requests = requests_of(questions, rankings)
    rows = zip(requests.request.tolist(), requests.note_idx.tolist(), strict=True)
    return requests, np.array([made[request][note][1] for request, note in rows], np.float32)


Made = st.lists(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, 2.0])), max_size=7), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(Made)
def test_the_auc_of_each_group_is_that_of_scikit_learn_also_for_ties(made: list[list[tuple[bool, float]]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")
    requests, scores = requests_like(made)
    group = requests.request % 2  # groups that are not contiguous
    for of, n in ((requests.request, len(made)), (group, 2), (np.zeros(len(group), np.int64), 1)):
        found = auc_by_group(of, scores, requests.clicked, n)
        for i in range(n):
            clicked = requests.clicked[of == i]
            if clicked.any() and not clicked.all():
                assert found[i] == pytest.approx(metrics.roc_auc_score(clicked, scores[of == i]), abs=1e-12)
            else:
                assert math.isnan(found[i])


@settings(max_examples=60, deadline=None)
@given(Made)
def test_a_sampled_figure_is_the_mean_over_all_orders_of_each_click_and_the_negatives(
    made: list[list[tuple[bool, float]]],
) -> None:
    requests, scores = requests_like(made)
    found = sampled_figures(requests, scores)
    for i, results in enumerate(made):
        negatives = [score for click, score in results if not click]
        values: dict[str, list[float]] = {name: [] for name in found}
        for click, score in results:
            if not click:
                continue
            orders = itertools.permutations([(score, True), *((each, False) for each in negatives)])
            valid = [order for order in orders if all(a[0] >= b[0] for a, b in itertools.pairwise(order))]
            ranks = [1 + [hit for _, hit in order].index(True) for order in valid]
            for name, k in HITS.items():
                values[name].append(mean([rank <= k for rank in ranks]))
            for name, k in SAMPLED_NDCG.items():
                values[name].append(mean([1 / math.log2(rank + 1) if rank <= k else 0 for rank in ranks]))
            for name, k in SAMPLED_MRR.items():
                values[name].append(mean([1 / rank if rank <= k else 0 for rank in ranks]))
        for name, of_clicks in values.items():
            if of_clicks:
                assert found[name][i] == pytest.approx(np.mean(of_clicks), abs=1e-12), name
            else:
                assert math.isnan(found[name][i])


def test_by_hand() -> None:
    """Of two clicks, one is above both negatives and the other below one of them and tied with the other."""
    requests, scores = requests_like([[(True, 3.0), (True, 1.0), (False, 2.0), (False, 1.0)]])
    placed = place(requests.request, scores, requests.clicked, 1)
    by_note = dict(
        zip(requests.note_idx.tolist(), zip(placed.above, placed.tied, placed.n_others, strict=True), strict=True)
    )
    assert by_note == {0: (0, 0, 2), 1: (1, 1, 2), 2: (1, 0, 2), 3: (1, 1, 2)}
    found = sampled_figures(requests, scores)
    assert found["hit@1"][0] == pytest.approx((1 + 0) / 2)
    assert found["mrr@10 (sampled)"][0] == pytest.approx((1 + (1 / 2 + 1 / 3) / 2) / 2)
    low = sampled_figures(requests, scores, requests.note_idx == 1)
    assert low["hit@5"][0] == 1 and low["hit@1"][0] == 0


def test_nothing_to_place() -> None:
    requests, scores = requests_like([[], []])
    assert np.isnan(sampled_figures(requests, scores)["hit@1"]).all()
    assert np.isnan(auc_by_group(requests.request, scores, requests.clicked, 2)).all()
