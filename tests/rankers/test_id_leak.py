"""No ranker can tell clicks by ids: where all notes are alike, each is as good as chance."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("datasets", reason="needs datasets: pip install 'qilin-rag[rankers]'")
pytest.importorskip("peft", reason="needs peft: pip install 'qilin-rag[rankers]'")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
pytest.importorskip("torch", reason="needs torch (make test-all installs it)")

from qilin_rag.core.types import Question
from qilin_rag.data.requests import Requests
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.hybrid import Hybrid
from tests.rankers.id_leak import (
    TEXT,
    chance,
    mean_mrr,
    notes_of_one_text,
    ranked_by_all,
    write_leaky_tables,
)

SHARED = Path(os.environ.get("QILIN_RAG_SHARED", Path(__file__).parents[3] / "shared"))
RANKERS = {"random", "production", "bm25", "biencoder", "crossencoder", "vlm", "dcn-v2"}
RANKERS |= {"popularity", "item-to-item", "sasrec"}


def written_mrr(requests: Requests, scores: object) -> float:
    """MRR@10 of the one order that is written down."""
    order = -np.argsort(np.argsort(requests.best_first(np.asarray(scores, np.float32))))
    return mean_mrr(requests, order.astype(np.float32))


@pytest.mark.parametrize("data", ["made", "toy"])
def test_where_all_notes_are_alike_no_ranker_beats_chance(data: str, tmp_path: Path) -> None:
    if data == "toy" and not (SHARED / "data" / "qilin_toy").is_dir():
        pytest.skip("needs ../shared")
    folder = write_leaky_tables(tmp_path / "data", 60) if data == "made" else SHARED / "data" / "qilin_toy"
    for task, requests, scores in ranked_by_all(folder, tmp_path):
        mean, low, high = chance(requests)
        by_id = mean_mrr(requests, -requests.note_idx.astype(np.float32))
        if data == "made":  # what an order of ties by id would give, and its reverse
            assert by_id < 0.2 < low and mean_mrr(requests, requests.note_idx.astype(np.float32)) == 1
            assert mean_mrr(requests, scores["production"]) == pytest.approx(by_id)
        assert scores.keys() == RANKERS
        for name, of_ranker in scores.items():
            if name != "production":  # by position
                assert low <= mean_mrr(requests, of_ranker) <= high, (task, name)
                assert low <= written_mrr(requests, of_ranker) <= high, (task, name)
        assert mean_mrr(requests, scores["bm25"]) == pytest.approx(mean)  # all are tied, and said to be chance


def test_where_all_notes_are_alike_no_retriever_beats_chance(tmp_path: Path) -> None:
    """The reference has the highest id of sixty; among ten it stands as often as chance puts it there."""
    notes = notes_of_one_text(tmp_path, np.arange(60))
    questions = [
        Question(id=str(i), query=f"{TEXT[:2]} {i}", references=["-"], reference_notes=[59]) for i in range(300)
    ]
    hybrid = Hybrid(of=["bm25", {"name": "bm25", "analyzer": "char"}])
    for retriever in (BM25(), hybrid):
        rankings = retriever.search(questions, notes, 10)
        n_found = sum(any(hit.note_idx == 59 for hit in hits) for hits in rankings)
        assert abs(n_found / 300 - 10 / 60) < 1.96 * (10 / 60 * 50 / 60 / 300) ** 0.5
