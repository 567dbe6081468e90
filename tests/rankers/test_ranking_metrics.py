"""The figures of rankings: the mean of trec_eval's over every order of ties, and of the released code's formula."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_rag.core.types import Hit, Question
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.rankers.metrics import MEASURES, RELEASED, figures_of, tie_range

TREC = {
    "map@10": "map_cut_10",
    "map@100": "map_cut_100",
    "ndcg@10": "ndcg_cut_10",
    "recall@10": "recall_10",
    "precision@10": "P_10",
    "recall@100": "recall_100",
    "precision@100": "P_100",
}
Shown = list[tuple[int, bool, float]]  # note (often twice), click, score


def some(most: int, scores: list[float]) -> Any:
    return st.lists(st.tuples(st.integers(0, 150), st.booleans(), st.sampled_from(scores)), min_size=0, max_size=most)


def requests_like(made: list[Shown]) -> tuple[Requests, Any]:
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


def as_read(ranking: list[int], relevant: set[int], k: int) -> float:
    """AP@K of the released code, word for word: sum over ranks <= K of P@rank * rel(rank), over min(R, K)."""
    rel = [note in relevant for note in ranking[:k]]
    return sum(sum(rel[:rank]) / rank * rel[rank - 1] for rank in range(1, len(rel) + 1)) / min(len(relevant), k)


def orders_of(results: Shown) -> list[list[int]]:
    """Every ranking that these scores allow."""
    of_note = {note: score for note, _, score in results}
    levels = [[n for n in of_note if of_note[n] == score] for score in sorted(set(of_note.values()), reverse=True)]
    every = itertools.product(*(list(itertools.permutations(level)) for level in levels))
    return [[note for level in order for note in level] for order in every]


def assert_mean_over_orders(results: Shown) -> None:
    requests, scores = requests_like([results])
    relevant = {note for note, click, _ in results if click}
    [figures] = figures_of(requests, scores)
    if not relevant:
        assert figures is None
        return
    assert figures is not None
    orders = orders_of(results)
    rankings = {str(i): order for i, order in enumerate(orders)}
    ties = tie_range(requests, scores)
    for name in [*MEASURES, *RELEASED]:
        if name in MEASURES:
            found = list(by_trec_eval(rankings, dict.fromkeys(rankings, relevant), name).values())
        else:
            found = [as_read(order, relevant, RELEASED[name]) for order in orders]
        assert figures[name] == pytest.approx(np.mean(found), abs=1e-12), name
        assert ties.lowest[name][0] == pytest.approx(min(found), abs=1e-12)
        assert ties.highest[name][0] == pytest.approx(max(found), abs=1e-12)
    assert ties.is_tied[0] == (len({tuple(note in relevant for note in order) for order in orders}) > 1)


@settings(max_examples=40)
@given(some(7, [0.0, 1.0]))
def test_a_figure_is_the_mean_of_trec_evals_over_all_orders_of_ties(results: Shown) -> None:
    assert_mean_over_orders(results)


@pytest.mark.parametrize(
    "results",
    [
        [(1, True, 2.0), (2, False, 1.0), (3, True, 1.0), (4, True, 1.0), (5, False, 0.0)],  # below a hit
        [(i, i == 5, 0.0) for i in range(7)],
        [(i, i != 5, 0.0) for i in range(7)],
        [*((i, False, float(-i)) for i in range(8)), *((20 + i, i % 2 == 0, -9.0) for i in range(5))],  # across ten
    ],
)
def test_ties_by_hand(results: Shown) -> None:
    assert_mean_over_orders(results)


def test_reciprocal_ranks_of_equal_scores_are_those_of_chance() -> None:
    """One click among n: each place is as likely. Two among three: first or second."""
    requests, scores = requests_like([[(i, i == 11, 0.0) for i in range(12)], [(i, i < 2, 0.0) for i in range(3)]])
    one, two = figures_of(requests, scores)
    assert one is not None and two is not None
    assert one["mrr@10"] == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 12)
    assert one["recall@10"] == pytest.approx(10 / 12) and one["precision@10"] == pytest.approx(1 / 12)
    assert two["mrr@10"] == pytest.approx(2 / 3 * 1 + 1 / 3 * 1 / 2)
    assert two["map@10"] == pytest.approx(np.mean([1, (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2]))


@settings(max_examples=40)
@given(st.lists(some(160, [0.0]), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_figures_without_ties_are_those_of_trec_eval(made: list[Shown], rng: Any) -> None:
    requests, scores = requests_like(made)
    scores = np.array(rng.sample(range(2 * len(scores) + 1), len(scores)), np.float32)
    found = figures_of(requests, scores)
    order = requests.best_first(scores)
    bounds = zip(requests.offsets[:-1], requests.offsets[1:], strict=True)
    rankings = {f"r{i}": requests.note_idx[order[start:end]].tolist() for i, (start, end) in enumerate(bounds)}
    relevant = {f"r{i}": {note for note, click, _ in results if click} for i, results in enumerate(made)}
    assert [figures is None for figures in found] == [not notes for notes in relevant.values()]
    for name in MEASURES:
        expected = by_trec_eval(rankings, relevant, name)
        for i, figures in enumerate(found):
            if figures is not None:
                assert figures[name] == pytest.approx(expected[f"r{i}"], abs=1e-12)
    for i, figures in enumerate(found):
        for name, k in RELEASED.items():
            if figures is not None:
                assert figures[name] == pytest.approx(as_read(rankings[f"r{i}"], relevant[f"r{i}"], k), abs=1e-12)
    assert not tie_range(requests, scores).is_tied.any()


def test_the_reciprocal_rank_is_cut_at_k() -> None:
    for first, at_10, at_100 in ((9, 0.1, 0.1), (10, 0.0, 1 / 11), (99, 0.0, 0.01), (100, 0.0, 0.0)):
        requests, _ = requests_like([[(i, i in (first, 150), 0.0) for i in range(200)]])
        [figures] = figures_of(requests, -requests.note_idx.astype(np.float32))
        assert figures is not None
        assert (figures["mrr@10"], figures["mrr@100"]) == pytest.approx((at_10, at_100))


def test_the_two_denominators() -> None:
    requests, _ = requests_like([[(i, i < 20, 0.0) for i in range(40)]])  # more clicks than can stand among ten
    [figures] = figures_of(requests, -requests.note_idx.astype(np.float32))
    assert figures is not None
    assert figures["map@10"] == pytest.approx(0.5)
    assert figures["map@10 (released code)"] == pytest.approx(1.0)
    assert figures["map@100"] == figures["map@100 (released code)"] == pytest.approx(1.0)


def test_neither_the_order_of_exposure_nor_that_of_ids_enters_a_figure() -> None:
    """Defect 7: a stable sort of ties hands the platform's own order to the figures."""
    for clicked, shown in itertools.product((1, 5, 9), itertools.permutations([9, 5, 1])):
        questions = [Question(id="1", query="", references=["-"], reference_notes=[clicked])]
        requests = requests_of(questions, [[Hit(note_idx=note, score=0, rank=i) for i, note in enumerate(shown, 1)]])
        [figures] = figures_of(requests, np.zeros(3, np.float32))
        assert figures is not None and figures["mrr@10"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_doubled_candidates_count_once() -> None:
    """Defect 7: a note that was exposed twice is one candidate, clicked if it was either time."""
    requests, scores = requests_like([[(4, False, 1.0), (4, True, 1.0), (2, False, 0.5), (3, True, 0.0)]])
    assert sorted(requests.note_idx.tolist()) == [2, 3, 4]
    [figures] = figures_of(requests, scores)
    assert figures is not None
    assert (figures["recall@10"], figures["precision@10"], figures["map@10"]) == pytest.approx(
        (1.0, 0.2, (1 + 2 / 3) / 2)
    )


def test_requests_without_a_candidate_or_a_click_have_no_figure() -> None:
    requests, scores = requests_like([[], [(1, False, 1.0)], [(2, True, 1.0)], []])
    assert [figures is not None for figures in figures_of(requests, scores)] == [False, False, True, False]
    none, nothing = requests_like([[]])
    assert figures_of(none, nothing) == [None] and not tie_range(none, nothing).is_tied.any()
