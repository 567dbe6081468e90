"""A late-interaction model as a reranker: the scores of sentence-transformers, and each text encoded once."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
if not hasattr(sentence_transformers, "MultiVectorEncoder"):
    pytest.skip("needs sentence-transformers 6", allow_module_level=True)

from qilin_rag.config.run import resolve_run  # noqa: E402
from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.core.types import Hit, Question  # noqa: E402
from qilin_rag.data import load_dataset  # noqa: E402
from qilin_rag.data.notes import NoteStore  # noqa: E402
from qilin_rag.models.late_interaction import encode_tokens  # noqa: E402
from qilin_rag.pipeline.run import run  # noqa: E402
from qilin_rag.rankers.rerank import Reranker  # noqa: E402
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl  # noqa: E402
from tests.retrievers.tiny_multivector import write_multi_vector, write_stanford  # noqa: E402

MORE = [
    {"note_idx": 20, "title": "", "content": ""},
    {"note_idx": 21, "title": "hello", "content": "Cold brew 冷萃 with 80 grams of coffee."},
    {"note_idx": 22, "title": "多肉养", "content": "多肉养" * 60},
    {"note_idx": 23, "title": "hello", "content": "Cold brew 冷萃 with 80 grams of coffee."},
]
QUERIES = ["咖啡怎么冲", "cold coffee 冷", "多肉夏天怎么养，断水还是浇水，遮阴还是通风", "想"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_multi_vector(folder / "colbert")
    write_stanford(folder / "stanford")
    return folder


@pytest.fixture
def notes(tmp_path: Path) -> NoteStore:
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "notes.jsonl", [*NOTES, *MORE])
    write_jsonl(tmp_path / "data" / "dqa.jsonl", QUESTIONS)
    return load_dataset(str(tmp_path / "data")).notes


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each text was encoded as a query or a document."""
    count: Counter[tuple[str, str]] = Counter()

    def counted(encoder: Any, texts: Any, task: Any, **others: Any) -> Any:
        count.update((task, text) for text in texts)
        return encode_tokens(encoder, texts, task, **others)

    monkeypatch.setattr("qilin_rag.rankers.late_interaction.encode_tokens", counted)
    return count


def reranked(notes: NoteStore, source: Path, **settings: Any) -> list[list[Hit]]:
    questions = [Question(id=q, query=q, references=["-"], reference_notes=[]) for q in QUERIES]
    found = [Hit(note_idx=note.note_idx, score=-float(rank), rank=rank) for rank, note in enumerate(notes, 1)]
    halves = [found[i % 2 :: 1 + i % 2] for i in range(len(QUERIES))]
    halves = [[hit.model_copy(update={"rank": rank}) for rank, hit in enumerate(hits, 1)] for hits in halves]
    return Reranker.open(source, len(found), settings=settings).rerank(questions, halves, notes)


def scores_of(notes: NoteStore, source: Path, **settings: Any) -> dict[tuple[str, int], float]:
    rankings = reranked(notes, source, **settings)
    return {(q, hit.note_idx): hit.score for q, hits in zip(QUERIES, rankings, strict=True) for hit in hits}


@pytest.mark.parametrize("name", ["colbert", "stanford"])
def test_scores_are_those_of_sentence_transformers(models: Path, notes: NoteStore, name: str) -> None:
    """Of an empty text, a long one, mixed languages and a long query, in batches of one and of many."""
    theirs = sentence_transformers.MultiVectorEncoder(str(models / name), device="cpu")
    text = {note.note_idx: note.text for note in notes}
    scores = scores_of(notes, models / name)
    assert {note for _, note in scores} == set(text)
    for (query, note), score in scores.items():
        expected = theirs.similarity(theirs.encode_query([query]), theirs.encode_document([text[note]]))
        assert score == pytest.approx(float(expected), abs=1e-5)
    shutil.rmtree("cache")
    assert scores_of(notes, models / name, batch_size=1) == pytest.approx(scores, abs=1e-5)
    assert all(scores[query, 21] == scores[query, 23] for query in QUERIES if (query, 23) in scores)


def test_each_text_is_encoded_once(
    models: Path, notes: NoteStore, encoded: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the pairs are scored some at a time; and a second run encodes nothing."""
    monkeypatch.setattr("qilin_rag.rankers.pairs._CHUNK_PAIRS", 4)
    scores = scores_of(notes, models / "colbert")
    n_queries, n_texts = (sum(task == kind for task, _ in encoded) for kind in ("query", "document"))
    assert (n_queries, n_texts) == (len(QUERIES), len(notes) - 1)
    assert sum(n for (task, _), n in encoded.items() if task == "query") == n_queries
    again = [n for (task, _), n in encoded.items() if task == "document" and n > 1]
    assert len(again) <= len(scores) // 4 and set(again) <= {2}  # a note at the end of four pairs
    encoded.clear()
    assert scores_of(notes, models / "colbert", batch_size=2) == scores
    assert not encoded


def test_what_was_scored_before_a_stop_stays(models: Path, notes: NoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from qilin_rag.rankers.score_store import ScoreStore

    kept: list[int] = []
    put = ScoreStore.put

    def put_until_killed(self: ScoreStore, pairs: Any, scores: Any) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(len(scores))
        put(self, pairs, scores)

    monkeypatch.setattr(ScoreStore, "put", put_until_killed)
    with pytest.raises(KeyboardInterrupt):
        scores_of(notes, models / "colbert", batch_size=1)
    known = sum(kept)
    monkeypatch.setattr(ScoreStore, "put", lambda self, pairs, scores: kept.append(len(scores)))
    scores = scores_of(notes, models / "colbert", batch_size=1)
    text = {note.note_idx: note.text for note in notes}
    assert sum(kept[2:]) == len({(query, text[note]) for query, note in scores}) - known


def test_a_run_is_identified_by_model_and_settings(models: Path, data_dir: Path, tmp_path: Path) -> None:
    def asked(source: Path, *overrides: str) -> Any:
        flags = {"data": str(data_dir), "metrics": "retrieval", "rerank": str(source), "rerank_depth": 4, "top_k": 2}
        return run(resolve_run(flags, overrides)).manifest

    first = asked(models / "colbert")
    assert first.labels["retriever"].startswith("bm25 + colbert@")
    assert "query_prefix" not in first.identity["rerank"]["ranker"]
    shutil.copytree(models / "colbert", tmp_path / "moved")
    assert asked(tmp_path / "moved", "rerank.batch_size=2", "rerank.device=cpu").fingerprint == first.fingerprint
    others: list[dict[str, Any]] = [{"max_length": 20}, {"passage_prefix": ""}, {"query_prefix": "x"}]
    found = [Reranker.open(models / "colbert", 4, settings=settings).identity() for settings in [{}, *others]]
    assert found[0] == first.identity["rerank"] and all(other != found[0] for other in found[1:])


def test_settings_of_another_kind_are_refused(models: Path, notes: NoteStore, tmp_path: Path) -> None:
    from tests.rankers.tiny_rerankers import write_cross_encoder

    with pytest.raises(UsageError, match=r"rerank\.instruction: model .* is a late-interaction model, without such a"):
        scores_of(notes, models / "colbert", instruction="找")
    with pytest.raises(UsageError, match=r"rerank\.max_length 513: model .* reads 512 tokens at most"):
        scores_of(notes, models / "colbert", max_length=513)
    cross = write_cross_encoder(tmp_path / "cross", [str(note) for note in NOTES])
    with pytest.raises(UsageError, match=r"rerank\.passage_prefix: model .* is no late-interaction model, without"):
        scores_of(notes, cross, passage_prefix="D")


def test_it_works_on_the_command_line(models: Path, data_dir: Path, cli: Cli) -> None:
    flags = ("--data", data_dir, "--rerank", models / "colbert", "--top-k", 2, "-q")
    done = cli("retrieve", *flags, "--set", "rerank.max_length=20", "--out", "run.trec")
    assert (done.code, done.err) == (0, "")
    looked = cli("doctor", "--data", data_dir, "--rerank", models / "colbert")
    assert "which compares token vectors" in " ".join(looked.out.split())
    assert "passage_prefix" in cli("list", "rankers", "pretrained").out
