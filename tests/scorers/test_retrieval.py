from __future__ import annotations

import math

import pytest

from qilin_rag.core.types import Hit, Question, Sample
from qilin_rag.scorers.retrieval import Retrieval


def sample(question_id: str, ranked: list[int], score: float = 1.0) -> Sample:
    return Sample(
        question_id=question_id,
        query="q",
        status="failed",
        hits=[Hit(note_idx=note_idx, score=score, rank=rank) for rank, note_idx in enumerate(ranked, start=1)],
        notes_given=len(ranked),
        notes_used=0,
        messages=[],
        answer="",
        raw="",
    )


def question(question_id: str, relevant: list[int]) -> Question:
    return Question(id=question_id, query="q", references=["a"], reference_notes=relevant)


def values(ranked: list[int], relevant: list[int], k: int = 5) -> dict[str, float | None]:
    scores = Retrieval(k=k).score([sample("a b", ranked)], [question("a b", relevant)])
    return {score.metric: score.value for score in scores}


def test_by_hand() -> None:
    dcg = 1 / math.log2(3) + 1 / math.log2(6)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert values([9, 1, 8, 7, 2, 3], [1, 2, 3]) == pytest.approx(
        {"recall@5": 2 / 3, "ndcg@5": dcg / ideal, "mrr@5": 1 / 2}, abs=1e-12
    )


def test_ties_keep_our_order() -> None:
    """All scores are 1.0: trec_eval alone would order by id, and find note 1 at another rank."""
    assert values([9, 1, 8], [1])["mrr@5"] == 0.5
    assert values([1, 9, 8], [1])["mrr@5"] == 1.0


def test_an_empty_ranking_scores_zero_and_a_question_without_references_is_unscored() -> None:
    assert values([], [1]) == {"recall@5": 0.0, "ndcg@5": 0.0, "mrr@5": 0.0}
    assert set(values([1], []).values()) == {None}
    scores = Retrieval().score([sample("1", []), sample("2", [3])], [question("1", [4]), question("2", [3])])
    assert [score.value for score in scores] == [0.0] * 3 + [1.0] * 3


def test_k_is_part_of_name_and_signature() -> None:
    assert set(Retrieval(k=10).signatures()) == {"recall@10", "ndcg@10", "mrr@10"}
    assert Retrieval().signatures()["ndcg@5"].startswith("nDCG@5|")
    assert values([9, 8, 1], [1], k=2) == {"recall@2": 0.0, "ndcg@2": 0.0, "mrr@2": 0.0}


@pytest.mark.parametrize("top_k", [1, 2, 3, 10])
def test_in_a_run_figures_are_named_by_the_notes_it_asks_for(top_k: int) -> None:
    for ignores_k in (False, True):
        in_run = Retrieval().for_run(top_k, ignores_k)
        assert set(in_run.signatures()) == {f"{name}@{top_k}" for name in ("recall", "ndcg", "mrr")}
        scores = in_run.score([sample("1", [9, 8][:top_k])], [question("1", [9])])
        assert [score.value for score in scores] == [1.0] * 3


def test_a_figure_at_more_notes_than_the_run_asks_for_is_unscored_with_the_reason() -> None:
    asked = ([sample("1", [4, 5])], [question("1", [4])])
    scores = Retrieval(k=5).for_run(2, ignores_k=False).score(*asked)
    assert {score.metric for score in scores} == {"recall@5", "ndcg@5", "mrr@5"}
    assert {score.value for score in scores} == {None}
    assert all(score.reason and "2" in score.reason and "5" in score.reason for score in scores)
    for whole in (Retrieval(k=5).for_run(2, ignores_k=True), Retrieval(k=2).for_run(5, ignores_k=False)):
        assert [score.value for score in whole.score(*asked)] == [1.0] * 3


@pytest.mark.parametrize(
    ("left", "n_missing", "k", "value"),
    [
        ([4], 4, 5, None),  # the right note may have been the first of five, or the only one left
        ([], 5, 5, None),
        ([4, 7, 8], 2, 3, 1.0),  # three are left: what came after them does not count
        ([4], 0, 5, 1.0),  # a corpus of one note, or a retriever that found no more
        ([], 0, 5, 0.0),
    ],
)
def test_hits_that_the_data_lacks_leave_no_figure_over_fewer(
    left: list[int], n_missing: int, k: int, value: float | None
) -> None:
    found = sample("1", left).model_copy(update={"notes_missing": n_missing})
    [recall, *_] = Retrieval(k=k).for_run(5, ignores_k=False).score([found], [question("1", [4])])
    assert recall.value == value
    assert (recall.reason is None) == (value is not None)


def test_notes_that_the_prompt_had_no_room_for_were_retrieved_all_the_same() -> None:
    cut = sample("1", [9, 8, 4]).model_copy(update={"notes_used": 1, "prompt_notes": [9]})
    scores = Retrieval(k=3).score([cut], [question("1", [4])])
    assert [score.value for score in scores][::2] == [1.0, 1 / 3]
    assert "of:hits retrieved" in Retrieval().signatures()["recall@5"]
