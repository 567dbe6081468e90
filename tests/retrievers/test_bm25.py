"""BM25's index against bm25s, and through builds that were killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.errors import QilinError
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import Dataset, NoteStore, load_dataset
from qilin_rag.data.notes import note_digest
from qilin_rag.retrievers import postings
from qilin_rag.retrievers.bm25 import build as bm25_build
from qilin_rag.retrievers.bm25 import pruning
from qilin_rag.retrievers.bm25 import retriever as bm25_retriever
from qilin_rag.retrievers.bm25 import shards as bm25_shards
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS, Analyzer
from qilin_rag.retrievers.bm25.batch import search_in_processes
from qilin_rag.retrievers.bm25.index import FILES, BM25Index, read_index
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.resumable import is_whole
from tests.conftest import QUESTIONS, hear_signals, write_jsonl


def store_of(texts: Sequence[str], note_idxs: Sequence[int] | npt.NDArray[np.int64] | None = None) -> NoteStore:
    ids = np.array(range(len(texts)) if note_idxs is None else note_idxs, np.int64)
    columns = {"note_idx": ids, "note_title": pa.array([""] * len(texts), pa.string()), "note_content": list(texts)}
    schema = pa.schema([("note_idx", pa.int64()), ("note_title", pa.string()), ("note_content", pa.string())])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table(columns, schema=schema), max_chunksize=256)
    digests = b"".join(note_digest(int(i), "", text) for i, text in zip(ids, texts, strict=True))
    buffer = sink.getvalue()
    return NoteStore(lambda mapped: pa.BufferReader(buffer), ids, np.frombuffer(digests, "V32"))


def theirs(texts: Sequence[str], queries: Sequence[str], k1: float, b: float) -> list[npt.NDArray[np.float32]]:
    """The score of every note for each query, by bm25s with our terms."""
    analyze = ANALYZERS["char"]
    vocabulary = {"": 0}
    corpus = [[vocabulary.setdefault(term, len(vocabulary)) for term in analyze(text)] for text in texts]
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    with np.errstate(invalid="ignore"):
        index.index((corpus, vocabulary), show_progress=False)
    found = []
    for query in queries:
        ids = index.get_tokens_ids(analyze(query))
        found.append(index.get_scores_from_ids(ids) if ids else np.zeros(len(texts), np.float32))
    return found


def check_hits(query: str, hits: Sequence[Hit], scores: npt.NDArray[np.float32], k: int) -> None:
    """That these are the best `k` by their scores, whichever of those that tie."""
    expected = np.sort(scores[scores > 0])[::-1][:k]
    assert [hit.score for hit in hits] == pytest.approx(expected.tolist(), abs=1e-4)
    assert [hit.score for hit in hits] == pytest.approx([scores[hit.note_idx] for hit in hits], abs=1e-4)
    assert len({hit.note_idx for hit in hits}) == len(hits)
    assert hits == ranked({hit.note_idx: hit.score for hit in hits}, query)


LETTERS = st.text("abcde é一二三！ ", max_size=12)


@given(
    st.lists(LETTERS, min_size=1, max_size=40),
    st.lists(LETTERS, min_size=1, max_size=5),
    st.sampled_from([0.0, 0.9, 1.5]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.integers(1, 10),
    st.integers(1, 20),
)
def test_scores_are_those_of_bm25s(
    texts: list[str], queries: list[str], k1: float, b: float, k: int, block: int
) -> None:
    notes = store_of(texts)
    retriever = BM25(k1=k1, b=b, analyzer="char")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_shards, "SHARD_NOTES", 7)
        patch.setattr(postings, "BLOCK_POSTINGS", block)
        patch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
        rankings = retriever.search([Question(id=q, query=q, references=["x"]) for q in queries], notes, k)
        of_all = list(retriever.scores(queries, notes, [np.arange(len(texts))] * len(queries)))
    for query, hits, mine, scores in zip(queries, rankings, of_all, theirs(texts, queries, k1, b), strict=True):
        check_hits(query, hits, scores, k)
        assert mine == pytest.approx(scores, abs=1e-4)


def random_notes(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    letters = np.array(list("的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年"))
    p = 1 / np.arange(1, len(letters) + 1)
    return ["".join(rng.choice(letters, size, p=p / p.sum())) for size in rng.integers(0, 30, n)]


def test_many_notes_and_frequent_terms() -> None:
    """More notes than the best are sampled from, and two shards."""
    texts = random_notes(20_000)
    queries = ["的", "年", "的一是", "时年也", "的的年", "了" * 20, ""]
    questions = [Question(id=str(i), query=query, references=["x"]) for i, query in enumerate(queries)]
    notes = store_of(texts)
    for k in (1, 100, 30_000):
        rankings = BM25(analyzer="char").search(questions, notes, k)
        for query, hits, scores in zip(queries, rankings, theirs(texts, queries, 0.9, 0.4), strict=True):
            check_hits(query, hits, scores, k)


def test_which_of_notes_that_tie_stay_is_a_matter_of_the_hash_wherever_they_stand() -> None:
    n = 20_000
    expected = [hit.note_idx for hit in ranked(dict.fromkeys(range(n), 1.0), "一", 9)]
    for ids in (np.arange(n), np.random.default_rng(0).permutation(n)):
        [hits] = BM25(analyzer="char").search(
            [Question(id="1", query="一", references=["x"])], store_of(["一"] * n, ids), 9
        )
        assert [hit.note_idx for hit in hits] == expected


def test_the_same_object_searches_again_and_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = store_of(random_notes(2000))
    texts = [*random_notes(299), "没有的词"]
    questions = [Question(id=str(i), query=text, references=["x"]) for i, text in enumerate(texts)]
    retriever = BM25(analyzer="char")
    one = retriever.search(questions, notes, 10)
    monkeypatch.setattr("qilin_rag.retrievers.bm25.retriever.MANY_QUERIES", 300)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    searched: list[int] = []

    def search(*given: Any) -> Any:
        searched.append(len(given[3]))
        return search_in_processes(*given)

    monkeypatch.setattr(bm25_retriever, "search_in_processes", search)
    assert retriever.search(questions, notes, 10) == one
    assert retriever.search(questions[1:], notes, 10) == one[1:]
    assert searched == [300]
    assert retriever.search([], notes, 10) == []


def test_a_process_that_searches_and_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = store_of(random_notes(50))
    index: BM25Index = BM25(analyzer="char").open_index(notes)
    with pytest.raises(QilinError, match="index was replaced"):
        search_in_processes(index._replace(rows=index.rows[1:]), "char", notes.note_idxs, ["的"], 3, 1)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(QilinError, match="a process that searches ended with status 1"):
        search_in_processes(index, "char", notes.note_idxs, ["的"], 3, 1)


def test_an_index_that_was_not_kept_is_searched_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = store_of(random_notes(50))
    retriever = BM25(analyzer="char")
    retriever.open_unkept(notes)
    monkeypatch.setattr("qilin_rag.retrievers.bm25.retriever.MANY_QUERIES", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(bm25_retriever, "search_in_processes", None)
    [hits] = retriever.search([Question(id="1", query="的", references=["x"])], notes, 3)
    assert len(hits) == 3


@pytest.mark.parametrize("cost", [0, 1, 16])
def test_pruning_changes_no_bit_of_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: int) -> None:
    """Against all postings of a query, added up in single precision in the order of its terms."""
    rng = np.random.default_rng(1)
    rare = [f"{text}{'甲' * (i % 40 == 0)}{'乙' * (i % 300 == 0)}" for i, text in enumerate(random_notes(3000))]
    texts = [*rare, "丙", "", "甲乙", *["甲的"] * 30]
    bm25_build.write_index(store_of(texts), tmp_path, "char", 0.9, 0.4, 1)
    index = read_index(tmp_path)
    monkeypatch.setattr(pruning, "FEWEST_POSTINGS", 1)
    monkeypatch.setattr(pruning, "_TO_TRY", min(cost, 2))
    monkeypatch.setattr(pruning, "_LOOK_UP", cost)
    looked_up = []
    really = pruning._look_up_frequent

    def look_up(*given: Any) -> Any:
        looked_up.append(really(*given))
        return looked_up[-1]

    monkeypatch.setattr(pruning, "_look_up_frequent", look_up)
    scores = np.zeros(len(texts), np.float32)
    letters = list("的一是不了在有甲乙丙丁")
    for k in (1, 3, 50, 5000):
        for size in rng.integers(1, 7, 40).tolist():
            terms = rng.choice(letters, size).tolist()
            expected = np.zeros(len(texts), np.float32)
            for rows, impacts in index.postings(terms):
                np.add.at(expected, rows, impacts)
            places, found = index.search(terms, k, scores)
            assert not scores.any()
            assert np.array_equal(found, expected[places])
            assert len(set(places.tolist())) == len(places)
            least = max(np.sort(expected)[-min(k, len(texts))], np.nextafter(np.float32(0), np.float32(1)))
            assert set(np.flatnonzero(expected >= least).tolist()) <= set(places.tolist())
    assert any(found is not None for found in looked_up)
    assert any(found is None for found in looked_up)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """1,000 notes in sixteen shards."""
    monkeypatch.setattr(bm25_shards, "SHARD_NOTES", 64)
    return load_dataset(str(write_data(tmp_path / "data")))


def write_data(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"note_idx": i, "title": f"第{i}篇", "content": text} for i, text in enumerate(random_notes(1000))]
    write_jsonl(folder / "notes.jsonl", rows)
    write_jsonl(folder / "dqa.jsonl", QUESTIONS)
    return folder


def build(notes: NoteStore, folder: Path, n_processes: int = 1) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    bm25_build.write_index(notes, folder, "word", 0.9, 0.4, n_processes)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = build(small.notes, tmp_path / "one")
    assert build(small.notes, tmp_path / "three", 3) == one
    monkeypatch.setattr(bm25_shards, "SHARD_NOTES", 16384)
    assert build(small.notes, tmp_path / "whole") == one
    assert not list((tmp_path / "three").glob("shard*"))


KILLED = """
import os, sys, time
from contextlib import contextmanager
from pathlib import Path
from qilin_rag.data import load_dataset
from qilin_rag.core.progress import watched_by
from qilin_rag.retrievers import resumable
from qilin_rag.retrievers.bm25 import retriever, shards

def stop(*_):
    print("ready", flush=True)
    time.sleep(600)

class Killer:
    @contextmanager
    def stage(self, name, total, done):
        if where == "merge" and name == "merging terms":
            stop()
        def advance(n):
            nonlocal done
            done += n
            if where == "shards" and done > 192:
                stop()
        yield advance

shards.SHARD_NOTES = 64
os.sched_getaffinity = lambda pid: {0, 1}
where = sys.argv[1]
if where == "put":
    resumable.drop_temporary = stop
with watched_by(Killer()):
    retriever.BM25().write_index(load_dataset("data").notes, Path("index"))
"""


@pytest.mark.parametrize("where", ["shards", "merge", "put"])
def test_a_build_that_was_killed_goes_on_and_ends_in_the_same_bytes(small: Dataset, tmp_path: Path, where: str) -> None:
    expected = build(small.notes, tmp_path / "expected")
    command = [sys.executable, "-c", KILLED, where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hear_signals) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.kill()
    unfinished = tmp_path / ".index-building"
    shards = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("shard-*.npz")}
    assert {"shards": len(shards) > 3, "merge": len(shards) == 16, "put": not shards}[where]
    analyzed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        really = bm25_shards.analyze_notes

        def analyze(texts: pa.RecordBatch, analyzer: Analyzer) -> bm25_shards.IndexShard:
            analyzed.append(analyzer)
            return really(texts, analyzer)

        patch.setattr(bm25_shards, "analyze_notes", analyze)
        patch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
        BM25().write_index(small.notes, tmp_path / "index")
    assert {"shards": len(analyzed) <= 12, "merge": not analyzed, "put": not analyzed}[where]
    assert {name: (tmp_path / "index" / name).read_bytes() for name in FILES} == expected
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted([*FILES, "qilin_rag.json"])
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_shard_is_made_again(small: Dataset, tmp_path: Path) -> None:
    expected = build(small.notes, tmp_path / "expected")
    (tmp_path / "index").mkdir()
    bm25_shards.write_shards(small.notes, tmp_path / "index", "word", 1, lambda n: None)
    shards = sorted((tmp_path / "index").glob("shard-*.npz"))
    for path in shards[::5]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert [is_whole(path.parent, path.name) for path in shards[:6]] == [False, True, True, True, True, False]
    assert build(small.notes, tmp_path / "index") == expected
    (tmp_path / "index" / "rows.npy").write_bytes(expected["rows.npy"][:-4] + b"oops")
    assert build(small.notes, tmp_path / "index") == expected


def test_what_an_earlier_build_is_still_writing_is_no_part_of_the_index(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = bm25_shards.analyze_notes

    def analyze(texts: pa.RecordBatch, analyzer: Analyzer) -> bm25_shards.IndexShard:
        (tmp_path / ".index-building" / "shard-000000064.npz.0123abcd.tmp").write_bytes(b"half")
        return really(texts, analyzer)

    monkeypatch.setattr(bm25_shards, "analyze_notes", analyze)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    BM25(analyzer="word").write_index(small.notes, tmp_path / "index")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted([*FILES, "qilin_rag.json"])


def test_what_goes_wrong_in_another_process_is_said_here(small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bm25_shards.write_shards(small.notes, tmp_path / "nowhere", "word", 2, lambda n: None)
    with pytest.raises(QilinError, match="ended with status 1"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        bm25_shards.write_shards(small.notes, tmp_path, "word", 2, lambda n: None)


def test_the_index_cannot_be_written_to(small: Dataset, tmp_path: Path) -> None:
    build(small.notes, tmp_path / "index")
    index: BM25Index = read_index(tmp_path / "index")
    for array in (index.rows, index.impacts, index.indptr, index.offsets):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
    assert index.terms.readonly
    for i in (0, len(index.offsets) // 2, len(index.offsets) - 2):
        term = index.terms[index.offsets[i] : index.offsets[i + 1]].tobytes().decode()
        [(rows, impacts)] = index.postings([term])
        some = slice(index.indptr[i], index.indptr[i + 1])
        assert np.array_equal(rows, index.rows[some])
        assert np.array_equal(impacts, index.impacts[some])
    assert index.postings(["", "\udc80", "没有的词", "\U0010ffff"]) == []
