"""The second stage of a run: a trained ranker orders what the retriever found. Here it is one that needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RANKERS
from qilin_rag.data import load_dataset
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.reproduce import reproduce
from qilin_rag.pipeline.run import run
from qilin_rag.rankers import TrainedRanker
from qilin_rag.rankers.passages import note_texts
from qilin_rag.rankers.trained import Recipe, save_ranker
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer


class Short(TrainedRanker):
    """The shorter a note, the better."""

    packages: ClassVar[tuple[str, ...]] = ()
    reads_text_only: ClassVar[bool] = True
    n_scored: ClassVar[list[int]] = []

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        self.n_scored.append(requests.n_candidates)
        scores: Floats = -np.array([len(text) for text in note_texts(catalogue, requests.note_idx)], np.float32)
        return scores

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        raise NotImplementedError

    def score_with(self, fitted: Any, requests: Requests, catalogue: Catalogue) -> Floats:
        raise NotImplementedError

    def save(self, fitted: Any, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        raise NotImplementedError


class OfUsers(Short):
    reads_text_only: ClassVar[bool] = False


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a trained `short`; beside it one of `of-users`."""
    table = {"short": Short.class_path(), "of-users": OfUsers.class_path()}
    monkeypatch.setattr(RANKERS, "_builtin", {**RANKERS.table(), **table})
    monkeypatch.setattr(Short, "n_scored", [])
    for name, ranker in (("trained", Short()), ("of-users", OfUsers())):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text("{}")
        save_ranker(ranker, tmp_path / name, {})
    return tmp_path / "trained"


def asked(data: Path, *overrides: str, **flags: Any) -> Run:
    return run(resolve_run({"data": str(data), "metrics": "retrieval", "top_k": 2, **flags}, overrides))


def hits_of(done: Run) -> dict[str, Sequence[int]]:
    return {i: [hit.note_idx for hit in sample.hits] for i, sample in done.directory.read_samples()[0].items()}


def shortest(data: Path, note_idxs: Sequence[int], k: int) -> list[int]:
    length = {note.note_idx: len(note.text) for note in load_dataset(str(data)).notes}
    return sorted(note_idxs, key=lambda note_idx: (length[note_idx], note_idx))[:k]


def test_the_rankers_order_counts_down_to_its_depth(data_dir: Path, trained: Path) -> None:
    found = hits_of(asked(data_dir, top_k=3, retriever="random"))
    done = asked(data_dir, retriever="random", rerank=trained, rerank_depth=3)
    assert hits_of(done) == {i: shortest(data_dir, hits, 2) for i, hits in found.items()}
    assert hits_of(done) != {i: hits[:2] for i, hits in found.items()}
    for sample in done.directory.read_samples()[0].values():
        assert [hit.rank for hit in sample.hits] == [1, 2]
        assert [hit.score for hit in sample.hits] == sorted((hit.score for hit in sample.hits), reverse=True)
        assert sample.prompt_notes == [hit.note_idx for hit in sample.hits]


def test_beside_the_retriever_both_scores_count(data_dir: Path, trained: Path) -> None:
    def scores_of(**flags: Any) -> dict[str, dict[int, float]]:
        samples = asked(data_dir, retriever="random", top_k=3, **flags).directory.read_samples()[0]
        return {i: {hit.note_idx: hit.score for hit in sample.hits} for i, sample in samples.items()}

    first, second = scores_of(), scores_of(rerank=trained, rerank_depth=3)
    both = scores_of(rerank=trained, rerank_depth=3, rerank_weight=0.25)
    for i, scores in both.items():
        expected = {
            note: sum(
                weight * (stage[i][note] - min(stage[i].values())) / (max(stage[i].values()) - min(stage[i].values()))
                for weight, stage in ((0.75, first), (0.25, second))
            )
            for note in first[i]
        }
        assert scores == pytest.approx(expected)
        assert list(scores) == sorted(scores, key=lambda note: (-scores[note], note))


def test_it_is_a_run_of_its_own_that_says_how_it_was_made(data_dir: Path, trained: Path) -> None:
    plain, done = asked(data_dir), asked(data_dir, rerank=trained)
    assert "rerank" not in plain.manifest.identity
    assert plain.manifest.fingerprint == asked(data_dir, rerank_depth=7).manifest.fingerprint
    assert done.manifest.identity["rerank"]["depth"] == 20
    assert "-bm25-short-" in done.directory.path.name
    assert done.manifest.labels["retriever"] == "bm25 + short"
    deeper = asked(data_dir, rerank=trained, rerank_depth=5)
    assert deeper.manifest.labels["retriever"] == "bm25 + short depth=5"
    beside = asked(data_dir, rerank=trained, rerank_weight=0.5)
    assert beside.manifest.labels["retriever"] == "bm25 + short weight=0.5"
    assert len({each.manifest.fingerprint for each in (plain, done, deeper, beside)}) == 4
    (trained / "model" / "config.json").write_text('{"other": "weights"}')
    assert asked(data_dir, rerank=trained).manifest.fingerprint != done.manifest.fingerprint


def test_it_goes_on_and_scores_only_what_is_left(data_dir: Path, trained: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400" if n == 2 else None
    flags: dict[str, Any] = {"llm": "openai", "base_url": server.url, "cache": False, "concurrency": 1}
    config = resolve_run(
        {"data": str(data_dir), "metrics": "retrieval", "rerank": trained, **flags}, [f"llm.model={MODEL}"]
    )
    first = run(config)
    assert first.summary.counts["failed"] == 1
    server.fault = lambda n, body: None
    planned = plan(config)
    assert (planned.run, planned.answered, planned.calls) == (str(first.directory.path), 2, 1)
    Short.n_scored.clear()
    second = run(config)
    assert (second.directory.path, second.summary.counts["failed"]) == (first.directory.path, 0)
    assert len(Short.n_scored) == 1
    run(config)
    assert len(Short.n_scored) == 1
    sent = [body["messages"] for body in server.calls]
    assert [call.messages for call in planned.examples] == sent[-1:]


def test_it_is_reproduced_wherever_the_ranker_lies(data_dir: Path, trained: Path) -> None:
    done = asked(data_dir, rerank=trained)
    assert reproduce(done.directory.path).agrees
    moved = Path(shutil.move(trained, trained.with_name("moved")))
    with pytest.raises(UsageError, match=r"can't be repeated: .*holds no trained ranker"):
        reproduce(done.directory.path)
    again = reproduce(done.directory.path, overrides=[f"rerank={moved}"])
    assert (again.agrees, again.hits_changed) == (True, 0)


def test_runs_from_before_there_was_a_second_stage_are_reproduced_as_they_were(data_dir: Path) -> None:
    path = asked(data_dir).directory.path
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    del manifest["config"]["rerank"], manifest["config"]["rerank_depth"]
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert reproduce(path).provenance == {}


def test_missing_notes_are_left_out_before_they_are_ranked(data_dir: Path, trained: Path) -> None:
    write_jsonl(data_dir / "dqa.jsonl", QUESTIONS[:1])
    hits = enumerate([99, 10, 14], start=1)
    Path("hits.trec").write_text("".join(f"1 Q0 {note} {rank} {-rank} x\n" for rank, note in hits))
    flags: dict[str, Any] = {"retriever": "trec:hits.trec", "rerank": trained, "top_k": 1}
    with pytest.raises(UsageError, match="not in the data: 99"):
        asked(data_dir, **flags)
    done = asked(data_dir, missing_notes="skip", **flags)
    [sample] = done.directory.read_samples()[0].values()
    assert ([hit.note_idx for hit in sample.hits], sample.notes_missing) == (shortest(data_dir, [10, 14], 1), 1)


def test_retrieve_writes_the_new_order(data_dir: Path, trained: Path, cli: Cli) -> None:
    flags = ("--data", data_dir, "--retriever", "random", "--rerank", trained, "--rerank-depth", len(NOTES))
    done = cli("retrieve", *flags, "--top-k", 2, "--out", "run.trec", "-q")
    assert (done.code, done.err) == (0, "")
    rows = [line.split() for line in Path("run.trec").read_text().splitlines()]
    best = shortest(data_dir, [int(str(note["note_idx"])) for note in NOTES], 2)
    assert [int(row[2]) for row in rows] == best * len(QUESTIONS)


def test_a_sweep_scores_once(data_dir: Path, trained: Path, cli: Cli) -> None:
    Path("grid.yaml").write_text(f"retrievers: [bm25]\ntop_k: [1, 2]\nmetrics: retrieval\nrerank: {trained}\n")
    done = cli("sweep", "grid.yaml", "--data", data_dir, "-q")
    assert done.code == 0
    assert len(Short.n_scored) == 1
    assert "bm25 + short" in done.out
    assert len(list(Path("runs").glob("*-bm25-short-*"))) == 2


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--rerank", "of-users"], "of-users reads more than query and notes, and a question has no more"),
        (["--rerank", "nowhere"], "nowhere holds no trained ranker"),
        (["--rerank", "trained", "--top-k", "21"], "only 20 notes; raise rerank_depth (--rerank-depth)"),
        (["--rerank", "trained", "--rerank-depth", "0"], "'rerank_depth' is 0"),
        (["--rerank", "trained", "--rerank-weight", "0"], "'rerank_weight' is 0"),
    ],
)
def test_what_can_not_be_ranked_is_said(data_dir: Path, trained: Path, cli: Cli, flags: list[str], why: str) -> None:
    done = cli("run", "--data", data_dir, *flags)
    assert done.code == 2
    assert why in done.err
    assert len(done.err.splitlines()) == 1
