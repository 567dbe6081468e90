"""Figures that were kept are those that are computed without a cache, bit by bit, whatever happened in between."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core import figure_store, stats
from qilin_rag.core.cache import KINDS, cache_dir, clear, make_room
from qilin_rag.core.figure_store import FigureStore, current_store, figure_key, kept_figures
from qilin_rag.core.memo import Memo
from qilin_rag.core.types import Hit, Score
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports import details, kept_run
from qilin_rag.reports.cells import ResultTable
from qilin_rag.reports.compare import compare
from qilin_rag.reports.leaderboard import Options, leaderboard
from tests.conftest import launch
from tests.reports.made_runs import make_run

N_QUESTIONS = 50


@pytest.fixture
def runs(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three LLMs by two retrievers, whose files count as settled at once; the folder."""
    monkeypatch.setattr(kept_run, "_SETTLED_AFTER_NS", -1)
    values = np.random.default_rng(0).random((6, N_QUESTIONS)).tolist()
    values[3][4] = None
    queries = [f"q{at // 2}" for at in range(N_QUESTIONS)]
    for number, figures in enumerate(values):
        llm, retriever = divmod(number, 2)
        make_run(made, f"run{number}", figures, queries, llm=f"llm-{llm}", retriever=("bm25", "oracle")[retriever])
        directory = RunDirectory(made / f"run{number}")
        manifest = directory.read_manifest()
        identity = {**manifest.identity, "retriever": {"class": retriever}}
        directory.write_manifest(manifest.model_copy(update={"identity": identity}))
        samples = [
            sample.model_copy(update={"hits": [Hit(note_idx=10 + retriever, score=1, rank=1)], "latency_s": 0.1 + at})
            for at, sample in enumerate(directory.read_samples()[0].values())
        ]
        write_samples(directory, samples)
        of_hits = [
            Score(question_id=str(at), metric="recall@1", value=retriever, signature="recall@1|rel:made up")
            for at in range(N_QUESTIONS)
        ]
        write_scores(directory, [*directory.read_scores(), *of_hits])
    return made


def write_samples(directory: RunDirectory, samples: Sequence[Any]) -> None:
    (directory.path / "samples.jsonl").unlink()
    with directory.line_writer() as writer:
        for sample in samples:
            writer.write(sample)
    directory.write_trec_run(samples)


def write_scores(directory: RunDirectory, scores: Sequence[Score]) -> None:
    from qilin_rag.pipeline.scoring import summarise

    samples = list(directory.read_samples()[0].values())
    directory.write_figures(scores, summarise(samples, samples, scores))


def board(runs: Path, monkeypatch: pytest.MonkeyPatch, cache: str = "kept", **options: Any) -> list[ResultTable]:
    """The leaderboard as a new process makes it, with this folder as its cache."""
    for name in ("_TESTS", "_FAMILIES"):
        monkeypatch.setattr(stats, name, Memo(1_000, getattr(stats, name)._form))
    monkeypatch.setenv("QILIN_RAG_CACHE", str(Path(cache).absolute()))
    return leaderboard(runs, options=Options(**options))


def as_bits(tables: Sequence[ResultTable]) -> str:
    """All fields; Python writes each number as the shortest text that is this number alone."""
    return json.dumps([table.model_dump(mode="json") for table in tables], ensure_ascii=False)


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a long file is read, or a test is computed."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(details, "read_calls", fail)
    monkeypatch.setattr(details, "trec_of", fail)
    monkeypatch.setattr(RunDirectory, "read_figures", fail)
    monkeypatch.setattr(stats, "_flipped", fail)
    monkeypatch.setattr(stats._Pairs, "count", fail)


def note_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs whose scores are read from now on."""
    read: list[str] = []
    real = RunDirectory.read_figures

    def noted(directory: RunDirectory) -> Any:
        read.append(directory.path.name)
        return real(directory)

    monkeypatch.setattr(RunDirectory, "read_figures", noted)
    return read


def test_what_did_not_change_is_not_computed_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = board(runs, monkeypatch)
    [table] = first
    assert [block.metric for block in table.blocks] == ["m", "retrieval"] and table.spending[0].latency
    assert table.blocks[0].cells[0][0] and table.blocks[0].cells[0][0].ci95
    with monkeypatch.context() as patched:
        refuse(patched)
        assert as_bits(board(runs, patched)) == as_bits(first)
    assert as_bits(board(runs, monkeypatch, "other")) == as_bits(first)
    assert current_store() is None


def rescore(runs: Path) -> None:
    directory = RunDirectory(runs / "run1")
    values = np.random.default_rng(9).random(N_QUESTIONS)
    scores = [
        score.model_copy(update={"value": float(values[int(score.question_id)])}) if score.metric == "m" else score
        for score in directory.read_scores()
    ]
    write_scores(directory, scores)


def add_metric(runs: Path) -> None:
    for name in ("run0", "run1"):
        directory = RunDirectory(runs / name)
        scores = directory.read_scores()
        added = [
            score.model_copy(update={"metric": "n", "signature": "n|made up", "value": 1 / (2 + at)})
            for at, score in enumerate(scores[:N_QUESTIONS])
        ]
        write_scores(directory, [*scores, *added])


def other_hits(runs: Path) -> None:
    directory = RunDirectory(runs / "run2")
    samples = list(directory.read_samples()[0].values())
    samples[3] = samples[3].model_copy(update={"hits": [Hit(note_idx=13, score=1, rank=1)]})
    write_samples(directory, samples)


def slower(runs: Path) -> None:
    directory = RunDirectory(runs / "run2")
    samples = [sample.model_copy(update={"latency_s": 7.0}) for sample in directory.read_samples()[0].values()]
    write_samples(directory, samples)


def fewer_questions(runs: Path) -> None:
    directory = RunDirectory(runs / "run4")
    questions = directory.read_questions()[:-5]
    directory.write_questions(questions)
    update = {"n_questions": len(questions), "question_set_sha256": "fewer"}
    directory.write_manifest(directory.read_manifest().model_copy(update=update))


def swap(runs: Path) -> None:
    """Two runs exchange their names, so that each path has the files of the other."""
    (runs / "run0").rename(runs / "aside")
    (runs / "run1").rename(runs / "run0")
    (runs / "aside").rename(runs / "run1")


CHANGES: dict[str, Callable[[Path], object]] = {
    "scored again": rescore,
    "other metrics": add_metric,
    "other hits": other_hits,
    "other seconds": slower,
    "fewer questions": fewer_questions,
    "renamed": lambda runs: (runs / "run0").rename(runs / "run9"),
    "names exchanged": swap,
    "one more": lambda runs: make_run(runs, "run6", [0.5, *[0.1] * (N_QUESTIONS - 1)], llm="llm-3"),
    "one less": lambda runs: (runs / "run5" / "manifest.json").unlink(),
    "a note": lambda runs: RunDirectory(runs / "run0").write_manifest(
        (old := RunDirectory(runs / "run0").read_manifest()).model_copy(update={"config": {**old.config, "note": "x"}})
    ),
    "scores that do not fit": lambda runs: RunDirectory(runs / "run0").write_scores([]),
    "a half line": lambda runs: (runs / "run3" / "scores.jsonl").write_text('{"question_id": '),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("common", [False, True])
def test_after_a_change_the_figures_are_those_without_a_cache(
    change: str, common: bool, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = board(runs, monkeypatch, common=common)
    CHANGES[change](runs)
    after = board(runs, monkeypatch, common=common)
    assert as_bits(after) == as_bits(board(runs, monkeypatch, "other", common=common)) != as_bits(before)
    assert as_bits(board(runs, monkeypatch, common=common)) == as_bits(after)


def test_one_more_run_costs_its_own_part(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board(runs, monkeypatch)
    make_run(runs, "run6", [0.5, *[0.1] * (N_QUESTIONS - 1)], llm="llm-3", retriever="oracle")
    read = note_reads(monkeypatch)
    board(runs, monkeypatch)
    assert read == ["run6"]


def test_a_file_that_changed_just_now_is_read_each_time(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_run, "_SETTLED_AFTER_NS", 10**12)
    read = note_reads(monkeypatch)
    for n_times in (1, 2):
        board(runs, monkeypatch)
        assert len(read) == 6 * n_times


def test_a_file_that_changes_while_it_is_read_is_not_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RunDirectory.read_figures

    def replaced(directory: RunDirectory) -> Any:
        found = real(directory)
        if directory.path.name == "run1":
            rescore(runs)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "read_figures", replaced)
        board(runs, patched)
    assert as_bits(board(runs, monkeypatch)) == as_bits(board(runs, monkeypatch, "other"))


def test_another_version_of_the_program_uses_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = board(runs, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(figure_store, "_program", lambda: "another version")
        read = note_reads(patched)
        assert as_bits(board(runs, patched)) == as_bits(first) and len(read) == 6


def database() -> Path:
    return cache_dir() / KINDS["figures"].place


def test_damaged_figures_are_computed_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = board(runs, monkeypatch)
    connection = sqlite3.connect(database())
    rows = connection.execute("SELECT key, figure FROM figures").fetchall()
    assert len(rows) > 20
    others = [figure for _, figure in rows[1:]] + [rows[0][1]]  # whole, but of another key
    for at, ((key, figure), other) in enumerate(zip(rows, others, strict=True)):
        damaged = (other, figure[:-1] + bytes([figure[-1] ^ 1]), figure[:5], b"", "text", bytes(len(figure)))[at % 6]
        connection.execute("UPDATE figures SET figure = ? WHERE key = ?", (damaged, key))
    connection.commit()
    connection.close()
    assert as_bits(board(runs, monkeypatch)) == as_bits(first)
    refuse(monkeypatch)
    assert as_bits(board(runs, monkeypatch)) == as_bits(first)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 400, None])
def test_a_damaged_file_begins_anew(content: bytes | None, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = board(runs, monkeypatch)
    whole = database().read_bytes()
    database().write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096) if content is None else content)
    for _ in range(2):
        assert as_bits(board(runs, monkeypatch)) == as_bits(first)
    refuse(monkeypatch)
    assert as_bits(board(runs, monkeypatch)) == as_bits(first)


def test_without_a_cache_that_can_be_written_it_only_takes_longer(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("taken").write_text("a file")
    found = board(runs, monkeypatch, "taken")
    assert caplog.text.count("figures can't be kept in") == 1
    assert as_bits(found) == as_bits(board(runs, monkeypatch))


def test_two_processes_at_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [launch("leaderboard", "--runs-dir", runs, "--format", "json") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "can't be kept" not in outputs[0][1] + outputs[1][1]
    from qilin_rag.reports.formats import as_json

    expected = json.dumps(as_json(board(runs, monkeypatch, "other")), ensure_ascii=False, indent=2)
    assert {out.strip() for out, _ in outputs} == {expected}


def test_compare_says_the_same_from_what_was_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_TESTS", Memo(1_000, stats._TESTS._form))
    first = compare(runs / "run0", runs / "run3")
    monkeypatch.setattr(stats, "_TESTS", Memo(1_000, stats._TESTS._form))
    refuse(monkeypatch)
    assert compare(runs / "run0", runs / "run3") == first


def test_figures_of_hits_without_run_trec(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        (runs / f"run{number}" / "run.trec").unlink()
    first = board(runs, monkeypatch)
    assert as_bits(board(runs, monkeypatch)) == as_bits(first)


def test_the_store_keeps_what_it_is_given_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [figure_key("test", number) for number in range(1200)]
    with FigureStore() as store:
        store.put({key: str(number).encode() for number, key in enumerate(keys)})
        assert store.get(keys) == {key: str(number).encode() for number, key in enumerate(keys)}
        assert store.get([figure_key("test", "0")]) == {}
        monkeypatch.setattr(figure_store, "_MOST_BYTES", 100_000)
        store.put({figure_key("large"): bytes(200_000)})
        assert list(store.get([*keys, figure_key("large")])) != [] and keys[0] not in store.get(keys)


def test_the_cache_command_empties_it_also_while_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    key = figure_key("test")
    with kept_figures():
        store = current_store()
        assert store is not None
        store.put({key: bytes(100_000)})
        [entry] = clear(["figures"]).removed
        assert entry.kind == "figures" and entry.n_bytes > 90_000
        assert store.get([key]) == {}
        store.put({key: bytes(100_000)})
        monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0")
        make_room()
        assert store.get([key]) == {}
        store.put({key: b"again"})
        assert store.get([key]) == {key: b"again"}
