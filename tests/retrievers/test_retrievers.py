from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Question
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS, Analyzer
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.none import NoRetriever
from qilin_rag.retrievers.oracle import Oracle, OracleTopK
from qilin_rag.retrievers.random import Random
from qilin_rag.retrievers.trec import Trec
from tests.conftest import write_jsonl


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    return load_dataset(str(data_dir))


def ask(query: str) -> list[Question]:
    return [Question(id="q", query=query, references=["x"])]


def test_none_finds_nothing(small: Dataset) -> None:
    assert NoRetriever().search(small.questions, small.notes, 5) == [[], [], []]


def test_oracle_gives_all_references_in_order_uncut(small: Dataset) -> None:
    rankings = Oracle().search(small.questions, small.notes, k=1)
    assert [[hit.note_idx for hit in hits] for hits in rankings] == [[10], [12, 13], [11]]
    assert [(hit.rank, hit.score) for hit in rankings[1]] == [(1, 2.0), (2, 1.0)]


def test_oracle_top_k_is_the_oracles_ranking_cut(small: Dataset) -> None:
    whole = Oracle().search(small.questions, small.notes, k=5)
    for k in (1, 2, 3):
        assert OracleTopK().search(small.questions, small.notes, k) == [hits[:k] for hits in whole]
    assert OracleTopK().identity() != Oracle().identity()


def reference_bm25(query: list[str], documents: list[list[str]], k1: float, b: float) -> list[float]:
    """BM25 with Lucene's idf, written out from Kamphuis et al. 2020, table 1."""
    n_documents = len(documents)
    n_holding = Counter(term for document in documents for term in set(document))
    average = sum(map(len, documents)) / n_documents
    scores = []
    for document in documents:
        counts = Counter(document)
        score = 0.0
        for term in query:
            if counts[term]:
                idf = math.log(1 + (n_documents - n_holding[term] + 0.5) / (n_holding[term] + 0.5))
                score += idf * counts[term] / (counts[term] + k1 * (1 - b + b * len(document) / average))
        scores.append(score)
    return scores


@pytest.mark.parametrize("analyzer", get_args(Analyzer))
@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0.0, 1.0)])
def test_bm25_scores_are_the_formulas(analyzer: Analyzer, k1: float, b: float) -> None:
    sample = load_dataset("sample")
    questions = sample.questions[:10]
    analyze = ANALYZERS[analyzer]
    notes = list(sample.notes)
    documents = [analyze(note.text) for note in notes]
    rankings = BM25(analyzer=analyzer, k1=k1, b=b).search(questions, sample.notes, 10)
    for question, hits in zip(questions, rankings, strict=True):
        scores = reference_bm25(analyze(question.query), documents, k1, b)
        expected = sorted(
            ((round(score, 4), note.note_idx) for score, note in zip(scores, notes, strict=True) if score > 0),
            key=lambda pair: (-pair[0], pair[1]),
        )
        assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected[:10]], abs=1e-4)
        by_id = {note.note_idx: score for score, note in zip(scores, notes, strict=True)}
        assert [hit.score for hit in hits] == pytest.approx([by_id[hit.note_idx] for hit in hits], abs=1e-5)


def test_a_note_that_shares_no_term_is_no_hit(small: Dataset) -> None:
    [hits] = BM25().search(ask("冷萃"), small.notes, 5)
    assert [hit.note_idx for hit in hits] == [10]
    assert BM25().search(ask("火箭发动机"), small.notes, 5) == [[]]
    assert BM25().search(ask("？！"), small.notes, 5) == [[]]
    assert BM25().search(ask(""), small.notes, 5) == [[]]


def test_k_larger_than_the_corpus_and_an_empty_corpus(small: Dataset, data_dir: Path) -> None:
    [hits] = BM25(analyzer="char").search(ask("咖啡多肉"), small.notes, 1000)
    assert {hit.note_idx for hit in hits} == {10, 11, 12, 13}
    (data_dir / "notes.jsonl").write_text("")
    assert BM25().search(ask("咖啡"), load_dataset(str(data_dir)).notes, 5) == [[]]
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": 1, "title": "", "content": "！"}])
    assert BM25().search(ask("咖啡"), load_dataset(str(data_dir)).notes, 5) == [[]]


def test_ties_go_by_a_hash_and_are_reported(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": i, "title": "", "content": "咖啡"} for i in (5, 3, 9, 1)])
    caplog.set_level(logging.INFO, "qilin_rag")
    [hits] = BM25().search(ask("咖啡"), load_dataset(str(data_dir)).notes, 2)
    assert [hit.note_idx for hit in hits] == [
        hit.note_idx for hit in ranked(dict.fromkeys((5, 3, 9, 1), 0.0), "咖啡", 2)
    ]
    assert "1 of 1 rankings had ties at rank 2" in caplog.text


def test_the_index_is_built_once_and_kept(small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = BM25().search(small.questions, small.notes, 5)
    [index] = (tmp_path / "cache" / "indexes").iterdir()
    assert not list(index.glob("*.pkl"))
    monkeypatch.setattr(BM25, "write_files", lambda self, notes, folder: pytest.fail("built again"))
    assert BM25().search(small.questions, small.notes, 5) == first
    with pytest.raises(pytest.fail.Exception, match="built again"):
        BM25(k1=1.0).search(small.questions, small.notes, 5)


def test_another_corpus_gets_another_index(small: Dataset, data_dir: Path, tmp_path: Path) -> None:
    retriever = BM25()
    retriever.search(small.questions, small.notes, 5)
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": 77, "title": "", "content": "冷萃"}])
    [hits] = retriever.search(ask("冷萃"), load_dataset(str(data_dir)).notes, 5)
    assert [hit.note_idx for hit in hits] == [77]
    assert len(list((tmp_path / "cache" / "indexes").iterdir())) == 2


@pytest.mark.parametrize("name", ["qilin_rag.json", "rows.npy", "impacts.npy", "terms.npy"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"notes": "other"}'])
def test_a_damaged_or_foreign_index_is_built_again(
    small: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str
) -> None:
    first = BM25().search(small.questions, small.notes, 5)
    [index] = (tmp_path / "cache" / "indexes").iterdir()
    (index / name).write_text(content)
    assert BM25().search(small.questions, small.notes, 5) == first
    assert "building it again" in caplog.text


def test_one_object_serves_the_same_notes_in_another_order(small: Dataset, data_dir: Path, tmp_path: Path) -> None:
    retriever = BM25()
    first = retriever.search(small.questions, small.notes, 5)
    lines = (data_dir / "notes.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data_dir / "notes.jsonl").write_text("".join(reversed(lines)), encoding="utf-8")
    turned = load_dataset(str(data_dir))
    assert turned.notes.sha256 == small.notes.sha256
    again = retriever.search(small.questions, turned.notes, 5)
    assert [[hit.note_idx for hit in hits] for hits in again] == [[hit.note_idx for hit in hits] for hits in first]


def test_a_cache_that_cannot_be_written_costs_only_the_saving(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "file"))
    [hits] = BM25().search(ask("冷萃"), small.notes, 5)
    assert [hit.note_idx for hit in hits] == [10]
    assert "can't be kept" in caplog.text


def test_random_notes_depend_on_seed_and_question_only(small: Dataset) -> None:
    first = Random().search(small.questions, small.notes, 3)
    assert all(len({hit.note_idx for hit in hits}) == 3 for hits in first)
    assert Random().search(small.questions[::-1], small.notes, 3) == first[::-1]
    assert Random(seed=1).search(small.questions, small.notes, 3) != first
    assert {hit.note_idx for hit in Random().search(small.questions, small.notes, 99)[0]} == {10, 11, 12, 13, 14}


def test_random_notes_are_drawn_evenly(small: Dataset) -> None:
    many = [Question(id=str(i), query="", references=["x"]) for i in range(5000)]
    counts = Counter(hit.note_idx for hits in Random().search(many, small.notes, 1) for hit in hits)
    assert all(900 < n < 1100 for n in counts.values())


def test_a_trec_run_is_a_retriever(small: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.trec"
    path.write_text("1 Q0 11 2 0.5 x\n1 Q0 10 1 0.9 x\n3 Q0 12 1 -1 x\n")
    rankings = Trec(path=path).search(small.questions, small.notes, 1)
    assert [[hit.note_idx for hit in hits] for hits in rankings] == [[10], [], [12]]
    assert "has no hits for 1 of 3 questions" in caplog.text


def test_a_trec_run_is_what_it_says_not_where_it_lies(tmp_path: Path) -> None:
    for name, text in (("a", "1 Q0 11 1 0.5 x\n"), ("b", "1 Q0 11 1 0.5 x\n"), ("c", "1 Q0 12 1 0.5 x\n")):
        (tmp_path / name).write_text(text)
    a, b, c = (Trec(path=tmp_path / name).identity() for name in "abc")
    assert a == b != c


def test_real_chinese_questions(shared: Path) -> None:
    data = load_dataset(str(shared / "data" / "cmrc_dqa"))
    least_by_analyzer: dict[Analyzer, float] = {"word": 0.985, "cjk-bigram": 0.99}
    for analyzer, least in least_by_analyzer.items():
        rankings = BM25(analyzer=analyzer).search(data.questions, data.notes, 5)
        found = [
            question.reference_notes[0] in [hit.note_idx for hit in hits]
            for question, hits in zip(data.questions, rankings, strict=True)
        ]
        assert sum(found) / len(found) >= least
