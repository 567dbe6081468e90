"""Figures of a search among all notes, against ir_measures."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.scorers.relevant_ranks import RankMeasure, as_columns, measures_at, relevant_figures

MEASURES = [RankMeasure(kind, k) for kind in ("recall", "hit_rate", "mrr", "ndcg") for k in (1, 3, 10)]
REQUEST = st.tuples(st.permutations(range(12)), st.sets(st.integers(0, 15), max_size=6))


@given(st.lists(REQUEST, min_size=1, max_size=6))
def test_figures_are_those_of_ir_measures(requests: list[tuple[list[int], set[int]]]) -> None:
    rankings, relevant = zip(*requests, strict=True)
    found = [
        (row, rank)
        for row, ranking in enumerate(rankings)
        for rank, note in enumerate(ranking, start=1)
        if note in relevant[row]
    ]
    figures = relevant_figures(
        MEASURES,
        np.array([row for row, _ in found], np.int64),
        np.array([rank for _, rank in found], np.int64),
        np.array(list(map(len, relevant)), np.int64),
    )
    qrels = [ir_measures.Qrel(str(row), str(note), 1) for row, notes in enumerate(relevant) for note in notes]
    run = [
        ir_measures.ScoredDoc(str(row), str(note), float(-rank))
        for row, ranking in enumerate(rankings)
        for rank, note in enumerate(ranking, start=1)
    ]
    theirs = {measure.name: ir_measures.parse_measure(measure.of_ir_measures) for measure in MEASURES}
    expected = {
        (str(value.measure), int(value.query_id)): value.value
        for value in ir_measures.iter_calc(list(theirs.values()), qrels, run)
    }
    for name, measure in theirs.items():
        for row, notes in enumerate(relevant):
            if notes:
                assert figures[name][row] == pytest.approx(expected[str(measure), row], abs=1e-12)
            else:
                assert math.isnan(figures[name][row])


def test_only_measures_that_rankings_are_long_enough_for() -> None:
    assert [measure.name for measure in measures_at(1000)] == [
        *("recall@100", "recall@500", "recall@1000", "hit_rate@100", "hit_rate@500", "hit_rate@1000"),
        *("mrr@1000", "ndcg@10", "ndcg@100"),
    ]
    assert [measure.name for measure in measures_at(50)] == ["recall@50", "hit_rate@50", "mrr@50", "ndcg@10"]
    assert [measure.name for measure in measures_at(5)] == ["recall@5", "hit_rate@5", "mrr@5"]


def test_nothing_found_is_0_and_nothing_relevant_is_unscored() -> None:
    none = np.zeros(0, np.int64)
    figures = relevant_figures([RankMeasure("recall", 5)], none, none, np.array([2, 0]))
    column = as_columns(figures, ["a", "b"], {"recall@5": "R@5"}, "nothing was clicked")["recall@5"]
    assert [(score.value, score.reason) for score in column] == [(0.0, None), (None, "nothing was clicked")]
