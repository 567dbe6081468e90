"""The figures of rankings: equal to trec_eval's, and to a direct reading of the released code's formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.rankers.evaluation import figures_of
from qilin_rag.ranking_metrics import MEASURES, RELEASED, average_precision_as_released, rank_figures
from qilin_rag.types import Hit, Question

TREC = {
    "map@10": "map_cut_10",
    "map@100": "map_cut_100",
    "ndcg@10": "ndcg_cut_10",
    "recall@10": "recall_10",
    "precision@10": "P_10",
}

shown = st.lists(
    st.tuples(st.integers(0, 150), st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=0, max_size=160
)  # note (often twice), click, score (often tied)


def requests_like(made: list[list[tuple[int, bool, float]]]) -> tuple[Requests, Any]:
    questions, rankings = [], []
    scores = {}
    for i, results in enumerate(made):
        clicked = sorted({note for note, click, _ in results if click})
        questions.append(Question(id=f"r{i}", query="", references=["-"], reference_notes=clicked))
        rankings.append([Hit(note_idx=note, score=0, rank=rank) for rank, (note, _, _) in enumerate(results, 1)])
        scores.update({(i, note): score for note, _, score in results})
    requests = requests_of(questions, rankings)
    rows = zip(requests.request.tolist(), requests.note_idx.tolist(), strict=True)
    return requests, np.array([scores[row] for row in rows], np.float32)


def by_trec_eval(rankings: dict[str, list[int]], relevant: dict[str, set[int]], name: str) -> dict[str, float]:
    qrels = {request: {str(note): 1 for note in notes} for request, notes in relevant.items()}

    def evaluate(measure: str, cut: int | None = None) -> dict[str, Any]:
        run = {r: {str(n): float(-rank) for rank, n in enumerate(notes[:cut])} for r, notes in rankings.items()}
        found: dict[str, Any] = pytrec_eval.RelevanceEvaluator(qrels, {measure}).evaluate(run)
        return found

    if name.startswith("mrr"):
        found = evaluate("recip_rank", int(name.removeprefix("mrr@")))
        return {request: figures["recip_rank"] for request, figures in found.items()}
    measure = TREC[name]
    found = evaluate(measure.rpartition("_")[0] + "." + measure.rpartition("_")[2])
    return {request: figures[measure] for request, figures in found.items()}


@settings(max_examples=60)
@given(st.lists(shown, min_size=1, max_size=6))
def test_figures_are_those_of_trec_eval(made: list[list[tuple[int, bool, float]]]) -> None:
    requests, scores = requests_like(made)
    found = figures_of(requests, scores)
    rankings, relevant = {}, {}
    for i, results in enumerate(made):
        of_note = {note: score for note, _, score in results}
        rankings[f"r{i}"] = sorted(of_note, key=lambda note: (-of_note[note], note))
        relevant[f"r{i}"] = {note for note, click, _ in results if click}
    assert [figures is None for figures in found] == [not notes for notes in relevant.values()]
    for name in MEASURES:
        expected = by_trec_eval(rankings, relevant, name)
        for i, figures in enumerate(found):
            if figures is not None:
                assert figures[name] == pytest.approx(expected[f"r{i}"], abs=1e-9)
    for i, figures in enumerate(found):
        for name, k in RELEASED.items():
            if figures is not None:
                assert figures[name] == pytest.approx(as_read(rankings[f"r{i}"], relevant[f"r{i}"], k), abs=1e-9)


def as_read(ranking: list[int], relevant: set[int], k: int) -> float:
    """AP@K of the released code, word for word: sum over ranks <= K of P@rank * rel(rank), over min(R, K)."""
    rel = [note in relevant for note in ranking[:k]]
    return sum(sum(rel[:rank]) / rank * rel[rank - 1] for rank in range(1, len(rel) + 1)) / min(len(relevant), k)


def test_a_request_that_is_not_ranked_is_0_and_no_figure_of_the_released_code() -> None:
    found = rank_figures({"a": [1, 2]}, {"a": {2}, "b": {1}, "c": set(), "d": {7}})
    assert found["a"]["mrr@10"] == 0.5 and found["a"]["map@10 (released code)"] == 0.5
    assert found["b"] == dict.fromkeys(MEASURES, 0.0)
    assert set(found) == {"a", "b", "d"}  # c has nothing to find
    assert rank_figures({}, {"b": {1}}) == {"b": dict.fromkeys(MEASURES, 0.0)}
    found = rank_figures({"a": []}, {"a": {2}})
    assert found["a"] == dict.fromkeys([*MEASURES, *RELEASED], 0.0)


def test_the_reciprocal_rank_is_cut_at_k() -> None:
    ranking = list(range(200))
    for first, at_10, at_100 in ((9, 0.1, 0.1), (10, 0.0, 1 / 11), (99, 0.0, 0.01), (100, 0.0, 0.0)):
        figures = rank_figures({"a": ranking}, {"a": {first, 150}})["a"]
        assert (figures["mrr@10"], figures["mrr@100"]) == pytest.approx((at_10, at_100))


def test_the_two_denominators() -> None:
    relevant = set(range(20))  # more than can stand among ten
    figures = rank_figures({"a": list(range(40))}, {"a": relevant})["a"]
    assert figures["map@10"] == pytest.approx(0.5)
    assert figures["map@10 (released code)"] == pytest.approx(1.0)
    assert figures["map@100"] == figures["map@100 (released code)"] == pytest.approx(1.0)
    assert average_precision_as_released([3, 1], {1}, 10) == 0.5
    assert average_precision_as_released([], {1}, 10) == 0.0


def test_tied_scores_do_not_keep_the_order_of_exposure() -> None:
    """Defect 7: a stable sort of ties hands the platform's own order to the figures."""
    questions = [Question(id="1", query="", references=["-"], reference_notes=[9])]
    first_by_the_platform = [[Hit(note_idx=note, score=0, rank=rank) for rank, note in enumerate([9, 5, 1], 1)]]
    requests = requests_of(questions, first_by_the_platform)
    assert requests.position.tolist() == [3, 2, 1]  # the clicked note stood first
    [figures] = figures_of(requests, np.zeros(3, np.float32))
    assert figures is not None and figures["mrr@10"] == pytest.approx(1 / 3)


def test_doubled_candidates_count_once() -> None:
    """Defect 7: a note that was exposed twice is one candidate, clicked if it was either time."""
    requests, scores = requests_like([[(4, False, 1.0), (4, True, 1.0), (2, False, 0.5), (3, True, 0.0)]])
    assert requests.note_idx.tolist() == [2, 3, 4]
    [figures] = figures_of(requests, scores)
    assert figures is not None
    assert (figures["recall@10"], figures["precision@10"], figures["map@10"]) == pytest.approx(
        (1.0, 0.2, (1 + 2 / 3) / 2)
    )


def test_ids_join_and_not_the_order_of_appearance() -> None:
    """Defect 10: with ids handed out by order of appearance, one request less shifts all that follow."""
    rankings = {"30": [1, 2], "10": [2, 1]}
    relevant = {"10": {2}, "20": {1}, "30": {2}}
    found = rank_figures(rankings, relevant)
    assert {request: figures["mrr@10"] for request, figures in found.items()} == {"10": 1.0, "20": 0.0, "30": 0.5}
    assert rank_figures(dict(reversed(rankings.items())), dict(reversed(relevant.items()))) == found
