"""The retriever multivector: MaxSim of all notes, from an index on disk that resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
if not hasattr(sentence_transformers, "MultiVectorEncoder"):
    pytest.skip("needs sentence-transformers 6", allow_module_level=True)

from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.core.registry import RETRIEVERS  # noqa: E402
from qilin_rag.core.ties import rank_order  # noqa: E402
from qilin_rag.core.types import Question, Wording  # noqa: E402
from qilin_rag.data import Dataset, load_dataset  # noqa: E402
from qilin_rag.retrievers.multivector import search, shards  # noqa: E402
from qilin_rag.retrievers.multivector.retriever import MultiVector  # noqa: E402
from tests.conftest import QUESTIONS, Cli, hear_signals, write_jsonl  # noqa: E402
from tests.retrievers.test_sparse import rewritten  # noqa: E402
from tests.retrievers.tiny_models import write_kind  # noqa: E402
from tests.retrievers.tiny_multivector import WIDTH, write_multi_vector  # noqa: E402

QUERIES = ["咖啡怎么冲", "cold coffee 冷萃", "多肉夏天怎么养，断水还是浇水，遮阴还是通风", "", "想"]

# A build that gets its vectors from another index, so that it needs no torch, and sleeps after three of five shards.
BUILD = """
import sys, time
from itertools import count, pairwise
from pathlib import Path
import numpy as np
from qilin_rag.data import load_dataset
from qilin_rag.retrievers.multivector import shards
from qilin_rag.retrievers.multivector.retriever import MultiVector
model, data, whole, out = sys.argv[1:]
shards.SHARD_TEXTS = 8
made = shards.open_token_vectors(Path(whole)).shards
numbers = count()
def encode(self, texts, names):
    if (number := next(numbers)) == 3:
        print("stopped", flush=True)
        time.sleep(600)
    return [np.array(made[number].vectors[start:end]) for start, end in pairwise(made[number].starts)]
MultiVector._encode_notes = encode
MultiVector(model=model).write_index(load_dataset(data).notes, Path(out))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_multi_vector(tmp_path_factory.mktemp("models") / "colbert")


@pytest.fixture
def many(data_dir: Path) -> Dataset:
    """Fifty notes of unlike lengths: empty, long, in two languages, ten of them twice."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("冷萃咖啡怎么做多肉养，abc "), 1 + 2 * i % 61)) for i in range(38)]
    texts += ["", "cold brew 冷萃 coffee 80克"]
    rows = [{"note_idx": 7 * i, "title": "", "content": text} for i, text in enumerate(texts + texts[30:])]
    write_jsonl(data_dir / "notes.jsonl", rows)
    return load_dataset(str(data_dir))


def ask(*queries: str) -> list[Question]:
    return [Question(id=str(i), query=query, references=["x"]) for i, query in enumerate(queries)]


def their_scores(model: Path, data: Dataset, queries: list[str]) -> Any:
    """MaxSim by sentence-transformers, one text at a time, shape (n_queries, n_notes)."""
    theirs = sentence_transformers.MultiVectorEncoder(str(model), device="cpu")
    notes = [theirs.encode_document(note.text) for note in data.notes]
    return theirs.similarity([theirs.encode_query(query) for query in queries], notes).numpy()


def check(data: Dataset, rankings: Any, expected: Any, queries: list[str], k: int) -> None:
    """Rankings have these scores, and their order is that of the scores and, among ties, of the hash."""
    ids = data.notes.note_idxs
    row_of = {int(note_idx): row for row, note_idx in enumerate(ids)}
    for hits, scores, query in zip(rankings, expected, queries, strict=True):
        assert [hit.rank for hit in hits] == list(range(1, k + 1))
        rows = [row_of[hit.note_idx] for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], scores[rows], atol=1e-5)
        np.testing.assert_allclose(scores[rows], np.sort(scores)[::-1][:k], atol=1e-5)
        given = np.array([hit.score for hit in hits])
        assert rank_order(given, ids[rows], query).tolist() == list(range(k))


def test_scores_are_those_of_sentence_transformers(
    many: Dataset, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In one block, and in small shards, blocks and groups of queries."""
    expected = their_scores(model, many, QUERIES)
    check(many, MultiVector(model=str(model)).search(ask(*QUERIES), many.notes, 50), expected, QUERIES, 50)
    monkeypatch.setattr(shards, "SHARD_TEXTS", 8)
    monkeypatch.setattr(search, "_BLOCK_NUMBERS", 60 * WIDTH)
    monkeypatch.setattr(search, "_HELD_SCORES", 2 * 40)
    retriever = MultiVector(model=str(model), batch_size=1, index=tmp_path / "index")
    retriever.write_index(many.notes, tmp_path / "index")
    assert len(list((tmp_path / "index").glob("vectors-*.npy"))) == 5
    for k in (1, 12):
        check(many, retriever.search(ask(*QUERIES), many.notes, k), expected, QUERIES, k)


def test_notes_with_the_same_text_tie(many: Dataset, model: Path) -> None:
    [hits] = MultiVector(model=str(model)).search(ask("冷萃咖啡"), many.notes, 50)
    score = {hit.note_idx: hit.score for hit in hits}
    assert all(score[7 * i] == score[7 * (i + 10)] for i in range(30, 40))


def test_a_note_without_tokens_is_never_found(many: Dataset, tmp_path: Path) -> None:
    """This model has no marks around a text, and skips spaces and commas."""
    bare: dict[str, Any] = {"marks": "$A", "prompts": {}, "query_expansion": None, "skiplist": [" ", "，"]}
    folder = write_multi_vector(tmp_path / "bare", **bare)
    found = MultiVector(model=str(folder)).search(ask("冷萃"), many.notes, 50)[0]
    empty = {note.note_idx for note in many.notes if not note.text.strip(" ，")}
    assert empty and {hit.note_idx for hit in found} == set(many.notes.note_idxs.tolist()) - empty


def test_a_build_that_was_killed_resumes_to_the_same_bytes(
    many: Dataset, model: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_TEXTS", 8)
    MultiVector(model=str(model)).write_index(many.notes, tmp_path / "whole")
    given = (model, data_dir, tmp_path / "whole", tmp_path / "stopped")
    words = [sys.executable, "-c", BUILD, *map(str, given)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=hear_signals)
    assert child.stdout is not None and child.stdout.readline() == "stopped\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".stopped-building").glob("vectors-*.npy")}
    assert len(made) == 3
    read: list[str] = []
    encode = MultiVector._encode_notes

    def counted(self: MultiVector, texts: Any, names: Any) -> Any:
        read.extend(texts)
        return encode(self, texts, names)

    monkeypatch.setattr(MultiVector, "_encode_notes", counted)
    MultiVector(model=str(model)).write_index(many.notes, tmp_path / "stopped")
    assert len(read) == len(set(read)) == 40 - 3 * 8
    assert {name: (tmp_path / "stopped" / name).stat().st_mtime_ns for name in made} == made
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == files
    for name in files:
        if name != "qilin_rag.json":
            assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_index_of_something_else_is_refused(many: Dataset, model: Path, tmp_path: Path) -> None:
    MultiVector(model=str(model)).write_index(many.notes, tmp_path / "index")
    named: dict[str, Any] = {"model": str(model), "index": tmp_path / "index"}
    MultiVector(**named, query_prefix="x", batch_size=3, max_gb=1, device="cpu").search(ask("冷"), many.notes, 2)
    with pytest.raises(UsageError, match="does not fit: max_length: null there, 9 here"):
        MultiVector(**named, max_length=9).search(ask("冷"), many.notes, 2)
    other = write_multi_vector(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="does not fit: model: "):
        MultiVector(model=str(other), index=tmp_path / "index").search(ask("冷"), many.notes, 2)
    path = tmp_path / "index" / "vectors-00000.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=r"is damaged .*make it again: qilin-rag index multivector"):
        MultiVector(**named).search(ask("冷"), many.notes, 2)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("texts.npy", lambda texts: texts - 9, "names a text that does not exist"),
        ("texts.npy", lambda texts: texts.astype(float), "of other types"),
        ("texts.npy", lambda texts: texts % 9, "do not fit each other"),
        ("starts-00000.npy", lambda starts: starts[:0], "does not fit"),
        ("starts-00000.npy", lambda starts: starts[::-1], "does not fit"),
        ("starts-00000.npy", lambda starts: starts[:-1], "does not fit"),
        ("starts-00000.npy", lambda starts: starts[0], "of other types"),
        ("vectors-00000.npy", lambda vectors: vectors[:-1], "does not fit"),
        ("vectors-00000.npy", lambda vectors: vectors.astype(np.float16), "of other types"),
    ],
)
def test_an_index_of_a_stranger_is_checked(
    many: Dataset, model: Path, tmp_path: Path, name: str, change: Any, why: str
) -> None:
    MultiVector(model=str(model)).write_index(many.notes, tmp_path / "index")
    rewritten(tmp_path / "index", name, change)
    with pytest.raises(UsageError, match=f"is damaged .*{why}") as caught:
        MultiVector(model=str(model), index=tmp_path / "index").search(ask("冷"), many.notes, 2)
    assert "\n" not in str(caught.value)


def test_a_large_corpus_is_refused_before_anything_is_encoded(
    many: Dataset, model: Path, data_dir: Path, cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    said = r"50 notes need about 0\.0 MB of token vectors, more than max_gb 1e-06; let the model rerank"
    retriever = MultiVector(model=str(model), max_gb=1e-6)
    with pytest.raises(UsageError, match=said):
        retriever.search(ask("冷"), many.notes, 2)
    assert retriever._encoder is None and not list(Path("cache").rglob("*.npy"))
    flags = ("--data", data_dir, "--retriever", f"multivector:{model}", "--dry-run")
    done = cli("run", *flags, "--set", "retriever.max_gb=0.000001")
    assert (done.code, "Traceback" in done.err) == (2, False) and "more than max_gb 1e-06" in done.err
    planned = " ".join(cli("run", *flags).out.split())
    assert "first: encode 50 notes by MultiVector: there is no index yet, about 0.0 MB of token vectors" in planned


def test_other_models_are_refused(many: Dataset, tmp_path: Path) -> None:
    plain = write_kind(tmp_path / "plain", "bert")
    with pytest.raises(UsageError, match="is no late-interaction model: its files name neither MultiVectorEncoder nor"):
        MultiVector(model=str(plain)).search(ask("冷"), many.notes, 2)


def test_an_identity_is_the_models_content_and_the_settings(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "moved")
    first = MultiVector(model=str(model)).identity()
    assert MultiVector(model=str(tmp_path / "moved"), batch_size=2, device="cpu", max_gb=3).identity() == first
    assert first["component"] == "retriever/multivector" and len(first["model"]) == 64
    for setting in ({"query_prefix": ""}, {"passage_prefix": ""}, {"max_length": 9}):
        assert MultiVector(model=str(model), **setting).identity() != first


def test_it_is_a_langchain_retriever_and_a_part_of_a_hybrid(many: Dataset, model: Path) -> None:
    retriever = MultiVector(model=str(model))
    [hits] = retriever.search(ask("cold brew 冷萃"), many.notes, 3)
    hybrid = RETRIEVERS.create("hybrid", {"of": ["bm25", {"name": "multivector", "model": str(model)}], "depth": 10})
    [fused] = hybrid.search(ask("cold brew 冷萃"), many.notes, 5)
    assert len(fused) == 5 and {hit.note_idx for hit in hits} & {hit.note_idx for hit in fused}
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    documents = retriever.as_langchain(many.notes, k=3).invoke("cold brew 冷萃")
    assert [document.metadata["note_idx"] for document in documents] == [hit.note_idx for hit in hits]


def test_it_works_on_the_command_line(model: Path, data_dir: Path, cli: Cli) -> None:
    done = cli("index", f"multivector:{model}", "--data", data_dir, "--out", "index", "-q")
    assert done.code == 0 and "index of 5 notes" in done.out
    named = ("--retriever", "multivector", "--set", f"retriever.model={model}", "--set", "retriever.index=index")
    done = cli("retrieve", *named, "--data", data_dir, "--top-k", 2, "--out", "run.trec", "-q")
    assert (done.code, done.err) == (0, "")
    assert len(Path("run.trec").read_text().splitlines()) == 2 * len(QUESTIONS)
    grid = {"retrievers": ["bm25", {"name": "multivector", "model": str(model)}], "metrics": "retrieval"}
    Path("grid.yaml").write_text(json.dumps(grid))
    swept = cli("sweep", "grid.yaml", "--data", data_dir, "-q")
    assert swept.code == 0 and "multivector" in swept.out
    assert "max_gb" in cli("list", "retrievers", "multivector").out
    parts = f"retriever.of=['multivector:{model}', 'multivector:a/b']"
    looked = json.loads(cli("doctor", "--retriever", "hybrid", "--set", parts, "--json").out)
    here, missing = (finding for finding in looked if finding["subject"] == "multivector")
    assert (here["state"], missing["state"]) == ("ok", "missing")
    assert f"{WIDTH} dimensions a token, at most 40 tokens a note" in here["detail"]


def test_hypothetical_passages_are_encoded_as_notes(many: Dataset, model: Path) -> None:
    """A passage is longer than a query may be, and has the marker of notes."""
    theirs = sentence_transformers.MultiVectorEncoder(str(model), device="cpu")
    questions = ask(*QUERIES[:3])
    mixed = [questions[0], *(Wording(**dict(question), is_passage=True) for question in questions[1:])]
    vectors = [theirs.encode_query(QUERIES[0]), *map(theirs.encode_document, QUERIES[1:3])]
    texts = [note.text for note in many.notes]
    scores = theirs.similarity(vectors, [theirs.encode_document(text) for text in texts]).numpy()
    for hits, expected in zip(MultiVector(model=str(model)).search(mixed, many.notes, 5), scores, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-4)
