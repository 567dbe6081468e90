"""Rerankers behind an address: each form gives the right order, and no wrong score is ever kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import load_dataset
from qilin_rag.data.notes import NoteStore
from qilin_rag.llms import retry
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.reproduce import reproduce
from qilin_rag.pipeline.run import run
from qilin_rag.rankers.rerank import Reranker
from tests.conftest import Cli
from tests.rankers.rerank_server import RerankServer, by_length

QUERIES = ["咖啡怎么冲", "多肉换盆", "辞职"]
KEY = "jina_0123456789abcdef"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RerankServer]:
    monkeypatch.setattr(retry, "BASE_S", 0.01)
    with RerankServer() as server:
        yield server


@pytest.fixture
def notes(data_dir: Path) -> NoteStore:
    return load_dataset(str(data_dir)).notes


def scores_of(notes: NoteStore, url: str, model: str | None = "m", **settings: Any) -> dict[tuple[str, str], float]:
    """The score of each query with each note."""
    questions = [Question(id=q, query=q, references=["-"], reference_notes=[]) for q in QUERIES]
    found = [Hit(note_idx=note.note_idx, score=-float(rank), rank=rank) for rank, note in enumerate(notes, 1)]
    settings = {"batch_size": 2, "max_tries": 2, "model": model, **settings}
    rankings = Reranker.open(url, len(found), settings=settings).rerank(questions, [found] * 3, notes)
    text = {note.note_idx: note.text for note in notes}
    return {(q, text[hit.note_idx]): hit.score for q, hits in zip(QUERIES, rankings, strict=True) for hit in hits}


def right(notes: NoteStore) -> dict[tuple[str, str], float]:
    texts = [note.text for note in notes]
    return {(q, text): score for q in QUERIES for text, score in zip(texts, by_length(q, texts), strict=True)}


@pytest.mark.parametrize(
    ("path", "takes", "field"),
    [
        ("/v1/rerank", ["cohere"], "documents"),
        ("/v2/rerank", ["cohere"], "documents"),
        ("/rerank", ["tei"], "texts"),
        ("/rerank", ["cohere"], "documents"),
        ("/v1/score", ["score"], "text_2"),
        ("/score", ["score"], "text_2"),
    ],
)
def test_each_form_gives_the_right_scores(
    server: RerankServer, notes: NoteStore, path: str, takes: list[str], field: str
) -> None:
    server.takes = takes
    assert scores_of(notes, server.root + path) == pytest.approx(right(notes), abs=1e-9)
    assert all(field in body and len(body[field]) <= 3 for body in server.calls)
    assert all(body.get("model") == "m" for body in server.calls if field != "texts")
    assert sorted(server.pairs) == sorted(right(notes))


FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "too few": (lambda rows: rows[:-1], "it has 1 scores for 2 texts"),
    "none": (lambda rows: [], "it has 0 scores for 2 texts"),
    "twice": (lambda rows: [rows[0], rows[0]], r"the index \d comes twice"),
    "another": (lambda rows: [{**rows[0], "index": 2}, rows[1]], "the index 2 is that of no text, of 2"),
    "before": (lambda rows: [{**rows[0], "index": -1}, rows[1]], "the index -1 is that of no text"),
    "text": (lambda rows: [{**rows[0], "index": "0"}, rows[1]], "the index '0' is that of no text"),
    "nan": (lambda rows: [{**rows[0], "relevance_score": float("nan")}, rows[1]], "is nan, not a finite number"),
    "huge": (lambda rows: [{**rows[0], "relevance_score": 10**400}, rows[1]], "is 10000.*00, not a finite number"),
    "long": (lambda rows: [{**rows[0], "relevance_score": "x" * 9999}, rows[1]], r"is 'x+\.\.\.x+', not a finite"),
    "null": (lambda rows: [{**rows[0], "relevance_score": None}, rows[1]], "is None, not a finite number"),
    "words": (lambda rows: (200, "well done"), "it is not JSON"),
    "no list": (lambda rows: (200, {"scores": [1, 2]}), "it has no list of scores"),
    "500": (lambda rows: (500, {"error": "out of memory"}), "HTTP 500: out of memory"),
    "429": (lambda rows: (429, {"detail": "slow down"}), "HTTP 429: slow down"),
    "late": (lambda rows: "hang", "no answer within 0.5 s"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_reply_is_asked_for_again_and_never_kept(server: RerankServer, notes: NoteStore, name: str) -> None:
    wrong, said = FAULTS[name]
    url = f"{server.root}/v1/rerank"
    settings: dict[str, Any] = {"concurrency": 1, "timeout_s": 0.5}
    server.fault = lambda n, rows: wrong(rows) if n >= 5 else None
    with pytest.raises(QilinError, match=said) as raised:
        scores_of(notes, url, **settings)
    assert "(2 tries); the scores so far are kept" in str(raised.value)
    assert "\n" not in str(raised.value)
    first = set(server.pairs[:5])
    server.calls.clear()
    server.fault = lambda n, rows: wrong(rows) if n == 3 else None  # one at a time is no reason to stop
    assert scores_of(notes, url, **settings) == pytest.approx(right(notes), abs=1e-9)
    assert not first & set(server.pairs)


def test_no_pair_is_asked_for_twice_wherever_the_model_is_served(server: RerankServer, notes: NoteStore) -> None:
    whole = scores_of(notes, f"{server.root}/v1/rerank")
    n_pairs = len(server.pairs)
    with RerankServer() as moved:
        assert scores_of(notes, f"{moved.root}/rerank") == whole
        assert (len(moved.pairs), len(server.pairs)) == (0, n_pairs)
        scores_of(notes, f"{moved.root}/rerank", model="other")
        assert len(moved.pairs) == n_pairs


def test_another_model_behind_the_same_name_is_noticed(
    server: RerankServer, notes: NoteStore, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{server.root}/v1/rerank"
    scores_of(notes, url)
    assert "another model" not in caplog.text
    server.score = lambda query, texts: [-score for score in by_length(query, texts)]
    assert scores_of(notes, url) == pytest.approx({pair: -score for pair, score in right(notes).items()})
    assert "scores fixed texts otherwise than before, so it is another model" in caplog.text
    n_pairs = len(server.pairs)
    server.score = by_length
    assert scores_of(notes, url) == pytest.approx(right(notes))
    assert len(server.pairs) == n_pairs  # those of the first are still there


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: RerankServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_API_KEY", KEY)
    flags = {"data": str(data_dir), "metrics": "retrieval", "rerank": f"{server.root}/v1/rerank"}
    done = run(resolve_run(flags, ["rerank.model=a/bge-m3"]))
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert done.manifest.labels["retriever"] == "bm25 + bge-m3"
    kept = [path for path in [*Path.cwd().rglob("*")] if path.is_file()]
    assert not [path for path in kept if KEY.encode() in path.read_bytes()]
    server.fault = lambda n, rows: (401, {"detail": f"bad key {KEY}"})
    with pytest.raises(QilinError, match="refused the key in RERANK_API_KEY") as raised:
        Reranker.open(server.root + "/v1/rerank", 3).ranker.check()  # type: ignore[union-attr]
    assert KEY not in str(raised.value)
    monkeypatch.delenv("RERANK_API_KEY")
    with pytest.raises(QilinError, match="needs a key in RERANK_API_KEY"):
        Reranker.open(server.root + "/v1/rerank", 3).ranker.check()  # type: ignore[union-attr]


def test_a_run_keeps_its_name_wherever_the_model_is_served(server: RerankServer, data_dir: Path) -> None:
    def identity(url: str, *overrides: str) -> Any:
        flags = {"data": str(data_dir), "metrics": "retrieval", "rerank": url}
        return resolve_run(flags, overrides).rerank.identity()

    named = ["rerank.model=m"]
    one = identity("http://127.0.0.1:1/v1/rerank", *named)
    assert one == identity("https://elsewhere.example/rerank", *named, "rerank.concurrency=2", "rerank.timeout_s=3")
    assert one != identity("http://127.0.0.1:1/v1/rerank", "rerank.model=n")
    assert identity("http://127.0.0.1:1/v1/rerank") != identity("http://127.0.0.1:2/v1/rerank")


def test_a_strangers_run_sends_no_key_unasked(
    server: RerankServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.root}/v1/rerank"
    done = run(resolve_run({"data": str(data_dir), "metrics": "retrieval", "rerank": url}, ["rerank.model=m"]))
    again = reproduce(done.directory.path, overrides=[f"rerank={url}"])
    assert (again.agrees, again.hits_changed) == (True, 0)
    monkeypatch.setenv("RERANK_API_KEY", KEY)
    with pytest.raises(UsageError, match=rf"alone names rerank {url}; .* --set rerank={url}"):
        reproduce(done.directory.path)
    assert set(server.keys) == {None}


def test_a_file_that_names_the_address_of_a_key_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("run.yaml").write_text("rerank: {name: 'https://rerank.example/v1/rerank', model: m}\n")
    monkeypatch.setenv("RERANK_API_KEY", KEY)
    resolve_run({}, file=Path("run.yaml"))
    assert "the key in RERANK_API_KEY goes to https://rerank.example/v1/rerank" in caplog.text
    caplog.clear()
    resolve_run({"rerank": "http://127.0.0.1:1/rerank"}, file=Path("run.yaml"))
    assert "RERANK_API_KEY" not in caplog.text


def test_a_dry_run_asks_no_server(server: RerankServer, data_dir: Path) -> None:
    planned = plan(resolve_run({"data": str(data_dir), "rerank": f"{server.root}/v1/rerank"}))
    assert not server.calls
    assert any("rank 60 hits again" in step for step in planned.steps)


def test_it_works_on_the_command_line(server: RerankServer, data_dir: Path, cli: Cli) -> None:
    url = f"{server.root}/v1/rerank"
    done = cli("retrieve", "--data", data_dir, "--rerank", url, "--set", "rerank.model=m", "--out", "run.trec", "-q")
    assert (done.code, done.err) == (0, "")
    looked = cli("doctor", "--data", data_dir, "--rerank", url, "--retriever", "bm25")
    assert "answers in the form of cohere" in " ".join(looked.out.split())
    assert "concurrency" in cli("list", "rankers", "served").out
    gone = cli("retrieve", "--data", data_dir, "--rerank", "http://127.0.0.1:9/v1/rerank", "--out", "b.trec", "-q")
    assert gone.code == 1 and "http://127.0.0.1:9/v1/rerank: no server answers" in gone.err
    assert len(gone.err.splitlines()) == 1 and not Path("b.trec").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:8000/v1", "expected an address that ends in /rerank or /score"),
        ("http://127.0.0.1:8000", "expected an address that ends in /rerank or /score"),
        ("http://me:pw@127.0.0.1/v1/rerank", "it can't hold a password"),
        ("http://127.0.0.1/v1/rerank?key=1", "it can't hold a password"),
        ("http:///v1/rerank", "expected an address"),
    ],
)
def test_a_wrong_address_is_refused_when_it_is_read(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve_run({"rerank": url})


def test_it_works_while_an_event_loop_runs(server: RerankServer, notes: NoteStore) -> None:
    async def in_a_notebook() -> dict[tuple[str, str], float]:
        return scores_of(notes, f"{server.root}/v1/rerank")

    assert asyncio.run(in_a_notebook()) == pytest.approx(right(notes), abs=1e-9)
