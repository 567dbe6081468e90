"""Stages are said to whoever watches, and to the log where nobody does."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from qilin_rag.cli.bars import format_rate, new_progress, shorten
from qilin_rag.cli.ui import Bars
from qilin_rag.config.run import resolve_run
from qilin_rag.core.progress import Advance, stage, watched_by
from qilin_rag.data import load_dataset
from qilin_rag.pipeline.run import run
from qilin_rag.retrievers.bm25.retriever import BM25


class Heard:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Advance]:
        told: list[Any] = [name, total, done]
        self.stages.append(told)

        def advance(n: int = 1, failed: bool = False) -> None:
            told.append(-n if failed else n)

        yield advance
        told.append("end")


def test_the_watcher_is_told() -> None:
    heard = Heard()
    with watched_by(heard), stage("outer", 2) as outer, stage("inner", 9, 4) as inner:
        inner(5)
        outer(failed=True)
    with watched_by(heard), stage("nothing to do", 0):
        pass
    with stage("unwatched", 1) as advance:
        advance()
    assert heard.stages == [["outer", 2, 0, -1, "end"], ["inner", 9, 4, 5, "end"]]


def test_other_threads_have_watchers_of_their_own() -> None:
    heard = {"mine": Heard(), "theirs": Heard()}
    both_watched = threading.Barrier(2, timeout=60)

    def work(name: str) -> None:
        with watched_by(heard[name]):
            both_watched.wait()
            with stage(name, 1):
                both_watched.wait()

    thread = threading.Thread(target=work, args=("theirs",))
    thread.start()
    work("mine")
    thread.join()
    assert [each.stages for each in heard.values()] == [[["mine", 1, 0, "end"]], [["theirs", 1, 0, "end"]]]


def test_where_nobody_watches_the_log_says_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 40.0, 40.0, 60.0, 80.0, 80.0])
    monkeypatch.setattr("qilin_rag.core.progress.time.monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "qilin_rag"), stage("answering", 10, 3) as advance:
        advance()
        advance(failed=True)
        advance(2)
        advance()
    assert caplog.messages == ["answering: 5 of 10 (1 failed)", "answering: 8 of 10 (1 failed)"]


def test_bars_stand_below_one_another() -> None:
    screen = io.StringIO()
    bars = Progress(TextColumn("{task.description}"), MofNCompleteColumn(), console=Console(file=screen, width=40))
    with bars, watched_by(Bars(bars)), stage("runs", 2) as runs:
        with stage("answering", 3, 1) as answering:
            answering()
            answering(failed=True)
            shown = [(task.description, task.completed, task.total) for task in bars.tasks]
        runs()
    assert shown == [("runs", 0, 2), ("answering (1 failed)", 3, 3)]
    assert [(task.description, task.completed) for task in bars.tasks] == [("runs", 1)]
    assert "runs 1/2" in screen.getvalue().splitlines()[-1]


def test_a_run_and_its_index_say_how_far_they_are(tmp_path: Path) -> None:
    heard = Heard()
    with watched_by(heard):
        run(resolve_run({"data": "sample", "retriever": "bm25", "llm": "extractive", "runs_dir": tmp_path}, []))
    data = load_dataset("sample")
    of_stage = {str(name): (total, told) for name, total, _, *told in heard.stages}
    assert list(of_stage) == ["indexing notes", "merging terms", "answering"]
    assert (of_stage["indexing notes"][0], of_stage["answering"][0]) == (len(data.notes), len(data.questions))
    assert all(sum(n for n in told if isinstance(n, int)) == total for total, told in of_stage.values())


def test_an_index_is_said_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qilin_rag.retrievers.bm25.shards.SHARD_NOTES", 16)
    notes = load_dataset("sample").notes
    heard = Heard()
    with watched_by(heard):
        BM25().write_index(notes, tmp_path / "index")
    (_, total, done, *told), _ = heard.stages
    assert (total, done, told[-1]) == (len(notes), 0, "end")
    assert sorted(told[:-1], reverse=True) == [16] * (len(notes) // 16) + [len(notes) % 16]


@pytest.mark.parametrize("width", [60, 80, 132])
def test_bars_fit_the_terminal_and_say_how_fast_and_what_failed(width: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=True, color_system=None)
    label = "bm25 + crossencoder, qwen2.5-72b-instruct, prompt question-first, top 5, note_order=best_last: answering"
    with (
        new_progress(console) as bars,
        watched_by(Bars(bars)),
        stage("runs", 12, 3),
        stage(label, 2932, 1200) as advance,
    ):
        for n in range(60):
            advance(failed=n % 3 == 0)
        bars.tasks[1].finished_speed = 12.345
        bars.refresh()
    lines = [line for line in screen.getvalue().splitlines() if "1260/2932" in line]
    assert lines
    plain = Text.from_ansi(lines[-1]).plain.rstrip()
    assert "(20 failed)" in plain and "12.3/s" in plain and "…" in plain
    assert cell_len(plain) <= width


def test_a_long_label_keeps_its_beginning_and_its_end() -> None:
    assert shorten("answering", 12) == "answering"
    assert shorten("bm25, qwen, prompt default: answering (3 failed)", 32) == "bm25, qwen…answering (3 failed)"
    assert [cell_len(shorten("检索器很长的名字: answering (3 failed)", width)) <= width for width in (12, 20, 30)] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("per_s", "shown"),
    [
        (None, ""),
        (0.0, ""),
        (12.345, "12.3/s"),
        (1234.5, "1,234/s"),
        (0.5, "30.0/min"),
        (0.001, "3.6/h"),
        (1e-5, "0.0/h"),
    ],
)
def test_rates_are_readable(per_s: float | None, shown: str) -> None:
    assert format_rate(per_s) == shown
