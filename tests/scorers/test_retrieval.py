from __future__ import annotations

import math

import pytest

from qilin_rag.scorers.retrieval import Retrieval
from qilin_rag.types import Hit, Question, Sample


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
