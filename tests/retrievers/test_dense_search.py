"""Nearest vectors: flat is brute force, ties and all; ivf finds nearly the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.ties import rank_order
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.retrievers.dense import search as dense_search
from qilin_rag.retrievers.dense.retriever import BiEncoder
from tests.conftest import Cli, write_jsonl
from tests.retrievers.test_biencoder import ask


def clustered(n: int, dimension: int = 24) -> Any:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n // 50, dimension))
    vectors = centres[rng.integers(len(centres), size=n)] + rng.standard_normal((n, dimension)) * 0.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("n_copies", [1, 40])
def test_flat_is_brute_force(n_copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks that cut through ties, of more copies than faiss is asked for."""
    monkeypatch.setattr(dense_search, "BLOCK_ROWS", 97)
    monkeypatch.setattr(dense_search, "CHUNK_QUERIES", 3)
    monkeypatch.setattr(dense_search, "MARGIN", 5)
    vectors = np.tile(clustered(300), (n_copies, 1))
    rng = np.random.default_rng(1)
    ids = rng.permutation(len(vectors)).astype(np.int64)
    queries = clustered(300)[:10].astype(np.float32) + rng.standard_normal((10, 24)).astype(np.float32) * 0.1
    texts = [f"q{i}" for i in range(10)]
    rankings, n_tied = dense_search.search_flat(texts, queries, vectors, ids, 7)
    assert n_tied == (10 if n_copies > 1 else 0)
    for text, query, hits in zip(texts, queries, rankings, strict=True):
        scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)
        assert [hit.note_idx for hit in hits] == ids[rank_order(scores, ids, text)][:7].tolist()
        assert [hit.score for hit in hits] == np.sort(scores)[::-1][:7].tolist()


@pytest.mark.parametrize("kind", ["ivf"])
def test_an_index_finds_nearly_what_flat_does_and_is_kept(kind: dense_search.Neighbours, tmp_path: Path) -> None:
    vectors, ids = clustered(3000), np.arange(3000)[::-1].copy()
    queries = vectors[::50].astype(np.float32)
    index = dense_search.opened_index(kind, vectors, tmp_path)
    kept = (tmp_path / f"{kind}.faiss").stat().st_mtime_ns
    again = dense_search.opened_index(kind, vectors, tmp_path)
    assert (tmp_path / f"{kind}.faiss").stat().st_mtime_ns == kept

    def search(breadth: int, index: dense_search.Approximate = index) -> dict[str, float]:
        return dense_search.measured_recall(
            [f"q{i}" for i in range(len(queries))],
            queries,
            vectors,
            ids,
            lambda texts, some, k: dense_search.search_approximately(texts, some, vectors, ids, k, index, breadth),
        )

    measured = search(dense_search.default_n_probe(3000))
    assert measured["recall@100"] >= 0.95
    assert search(dense_search.default_n_probe(3000), again)["recall@100"] == measured["recall@100"]
    assert search(1)["recall@100"] < 0.9
    whole = (tmp_path / f"{kind}.faiss").read_bytes()
    for other in (vectors[:100], vectors):  # the first leaves an index of too few
        (tmp_path / f"{kind}.faiss").write_bytes(whole[: len(whole) // 2])
        assert dense_search.opened_index(kind, other, tmp_path).index.ntotal == len(other)
        assert dense_search.opened_index(kind, vectors, tmp_path).index.ntotal == 3000
    (tmp_path / f"{kind}.faiss").unlink()
    (tmp_path / f"{kind}.faiss").mkdir()  # nothing can be kept here
    assert dense_search.opened_index(kind, vectors, tmp_path).index.ntotal == 3000


@pytest.mark.parametrize("kind", ["ivf"])
def test_by_name_on_the_command_line(
    data_dir: Path,
    made_model: Path,
    tmp_path: Path,
    cli: Cli,
    kind: dense_search.Neighbours,
) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("冷萃咖啡怎么做多肉养"), 6)) for _ in range(200)]
    rows = [{"note_idx": i, "title": text[:2], "content": text} for i, text in enumerate(texts)]
    write_jsonl(data_dir / "notes.jsonl", rows)
    out = tmp_path / "index"
    settings = ("--set", f"retriever.model={made_model}", "--set", f"retriever.faiss={kind}")
    done = cli("index", "biencoder", "--data", data_dir, *settings, "--out", out)
    assert done.code == 0, done.err
    assert f"{kind} against flat: recall@100" in done.err
    measured = json.loads((out / f"{kind}.json").read_text())
    assert measured["n_queries"] == 200 and measured["recall@100"] >= 0.9
    notes = load_dataset(str(data_dir)).notes
    flat = BiEncoder(model=str(made_model), index=out)
    named = BiEncoder(model=str(made_model), index=out, faiss=kind, n_probe=999)
    done = cli("index", "biencoder", "--data", data_dir, "--set", "retriever.n_probe=9", "--out", out)
    assert (done.code, f"is a setting of faiss {kind}" in done.err) == (2, True)
    assert flat.nested and not named.nested
    assert named.identity() != flat.identity() and named.index_identity() == flat.index_identity()
    questions = ask("咖啡", "多肉")
    assert named.search(questions, notes, 20) == flat.search(questions, notes, 20)


def test_another_way_to_search_encodes_nothing(
    data_dir: Path,
    made_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data: Dataset = load_dataset(str(data_dir))
    flat = BiEncoder(model=str(made_model)).search(data.questions, data.notes, 5)
    monkeypatch.setattr(BiEncoder, "write_files", lambda *_: pytest.fail("encoded again"))
    assert BiEncoder(model=str(made_model), faiss="ivf").search(data.questions, data.notes, 5) == flat


@pytest.mark.parametrize("kind", ["ivf"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_copies_of_a_vector_hide_nothing(kind: dense_search.Neighbours, share: float, tmp_path: Path) -> None:
    """A tenth of the notes, or most of them, are the same; each query is near them, or near one of the others."""
    vectors = clustered(4000)
    rng = np.random.default_rng(2)
    copies = rng.choice(4000, int(share * 4000), replace=False)
    vectors[copies] = vectors[copies[0]]
    vectors[copies[: len(copies) // 4]] = vectors[copies[-1] - 1]  # a second one of fewer copies
    ids = rng.permutation(4000).astype(np.int64)
    queries = np.concatenate([vectors[::100], vectors[copies[:5]]]).astype(np.float32)
    queries += rng.standard_normal(queries.shape).astype(np.float32) * 0.05
    texts = [f"q{i}" for i in range(len(queries))]
    index = dense_search.opened_index(kind, vectors, tmp_path)
    assert index.index.ntotal == len(np.unique(vectors, axis=0)) == len(index.starts) - 1
    assert sorted(index.rows.tolist()) == list(range(4000))

    def search(texts: Any, some: Any, k: int) -> Any:
        breadth = dense_search.default_n_probe(index.index.ntotal)
        return dense_search.search_approximately(texts, some, vectors, ids, k, index, breadth)

    assert dense_search.measured_recall(texts, queries, vectors, ids, search)["recall@100"] >= 0.95
    for k in (1, 7):  # of copies at the cut the same ones, by the hash
        exact, of_exact = dense_search.search_flat(texts, queries, vectors, ids, k)
        found, of_found = search(texts, queries, k)
        assert np.mean([one == other for one, other in zip(exact, found, strict=True)]) >= 0.95
        assert of_found == pytest.approx(of_exact, abs=2)
    again = dense_search.opened_index(kind, vectors, tmp_path)
    assert np.array_equal(again.rows, index.rows) and np.array_equal(again.starts, index.starts)
    (tmp_path / dense_search.COPIES).write_bytes(b"nothing")
    again = dense_search.opened_index(kind, vectors, tmp_path)
    assert np.array_equal(again.rows, index.rows) and np.array_equal(again.starts, index.starts)


def test_an_index_that_misses_notes_is_said_each_time(
    data_dir: Path, made_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("冷萃咖啡怎么做多肉养"), 6)) for _ in range(400)]
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": i, "title": "", "content": t} for i, t in enumerate(texts)])
    notes = load_dataset(str(data_dir)).notes
    flat = BiEncoder(model=str(made_model), index=tmp_path / "index")
    flat.write_index(notes, tmp_path / "index")
    questions = ask("咖啡")
    for _ in range(2):  # made beside the vectors, then found there
        caplog.clear()
        BiEncoder(model=str(made_model), index=tmp_path / "index", faiss="ivf", n_probe=1).search(questions, notes, 5)
        assert "ivf misses notes: recall@100 against flat is 0." in caplog.text
    caplog.clear()
    BiEncoder(model=str(made_model), index=tmp_path / "whole", faiss="ivf", n_probe=99).write_index(
        notes, tmp_path / "whole"
    )
    BiEncoder(model=str(made_model), index=tmp_path / "whole", faiss="ivf", n_probe=99).search(questions, notes, 5)
    assert not caplog.records or "misses" not in caplog.text
    BiEncoder(model=str(made_model), index=tmp_path / "whole", faiss="ivf", n_probe=2).search(questions, notes, 5)
    assert "recall at n_probe 2 was not measured" in caplog.text
