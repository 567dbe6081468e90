"""Answers asked for again: what changed is counted, past the cache, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.types import Repeats
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.scored import score_run


def ask(data: Path, server: FakeServer, **flags: Any) -> Run:
    return run(
        resolve_run({"data": str(data), "llm": "openai", "base_url": server.url, **flags}, [f"llm.model={MODEL}"])
    )


@pytest.fixture
def fickle(server: FakeServer) -> FakeServer:
    """One question gets another answer every time."""
    server.answer = lambda body: str(len(server.calls)) if "多肉" in body["messages"][-1]["content"][-30:] else "答"
    return server


def test_the_share_of_answers_that_change(data_dir: Path, fickle: FakeServer, cli: Cli) -> None:
    expected = Repeats(times=3, questions=3, changed=1, share_changed=1 / 3)
    done = ask(data_dir, fickle, repeat=3)
    assert done.summary.repeats == expected
    assert len(fickle.calls) == 9
    assert done.summary.usage.completion_tokens == 9 * 10  # repeats are paid for
    assert ask(data_dir, fickle, repeat=3).summary == done.summary
    assert len(fickle.calls) == 9
    assert score_run(done.directory.path, {"rouge_1": {}}).summary.repeats == expected
    said = cli("run", "--data", data_dir, "--llm=openai", f"--set=llm.model={MODEL}", "--base-url", fickle.url)
    assert "asked 3 times: 1 of 3 answers changed (33.3%)" in said.out
    assert ask(data_dir, fickle, repeat=4).summary.repeats == expected.model_copy(update={"times": 4})
    assert len(fickle.calls) == 12


def test_what_repeats_took_is_shown(data_dir: Path, fickle: FakeServer, cli: Cli) -> None:
    done = ask(data_dir, fickle, repeat=3)
    shown = json.loads(cli("show", done.directory.path, "--json").out)
    assert shown["answers"] == done.summary.model_dump(mode="json", exclude={"metrics"})
    assert shown["manifest"] == done.manifest.model_dump(mode="json")
    said = cli("show", done.directory.path).out
    assert "90 completion tokens" in said
    assert "asked 3 times: 1 of 3 answers changed" in said


def test_repeats_go_past_the_cache(data_dir: Path, fickle: FakeServer) -> None:
    ask(data_dir, fickle)
    again = ask(data_dir, fickle, repeat=2, runs_dir=Path("elsewhere"))
    assert len(fickle.calls) == 3 + 6
    assert again.summary.cached == 0


def test_a_fresh_start_repeats_anew(data_dir: Path, fickle: FakeServer) -> None:
    done = ask(data_dir, fickle, repeat=2)
    again = ask(data_dir, fickle, repeat=2, fresh=True)
    assert len(fickle.calls) == 12
    assert again.directory.path == done.directory.path
    assert again.summary.repeats and again.summary.repeats.times == 2
    assert len(list(done.directory.path.glob("repeats-until-*.jsonl"))) == 1
    assert ask(data_dir, fickle, fresh=True).summary.repeats is None


def test_a_repeat_that_failed_is_asked_again(data_dir: Path, fickle: FakeServer) -> None:
    fickle.fault = lambda n, body: "400" if n == 5 else None
    first = ask(data_dir, fickle, repeat=2, concurrency=1).summary.repeats
    assert first and first.questions == 2
    fickle.fault = lambda n, body: None
    second = ask(data_dir, fickle, repeat=2).summary.repeats
    assert second and second.questions == 3
    assert len(fickle.calls) == 7


def test_a_repeat_that_was_filtered_is_not_asked_again(data_dir: Path, fickle: FakeServer) -> None:
    fickle.fault = lambda n, body: "filtered" if n == 5 else None
    first = ask(data_dir, fickle, repeat=2, concurrency=1).summary
    assert first.repeats and first.repeats.questions == 2
    assert ask(data_dir, fickle, repeat=2).summary == first
    assert len(fickle.calls) == 6


def test_what_failed_has_no_repeats(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400"
    assert ask(data_dir, server, repeat=2).summary.repeats is None
    assert len(server.calls) == 3
