"""Whole runs against a server that misbehaves: the right status, nothing asked twice, the same answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.llms import retry
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from tests.conftest import NOTES, Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer

PASSING = (
    "429",
    "429 0.01",
    "500",
    "503",
    "503 0.01",
    "hang",
    "reset",
    "cut",
    "goodbye",
    "broken json",
    "empty choices",
)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.005)
    monkeypatch.setattr(retry, "LONGEST_S", 0.05)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    write_jsonl(folder / "notes.jsonl", NOTES)
    rows = [
        {"search_idx": i, "query": f"<{i}>冷萃", "answers": ["冷藏"], "ref_note_idx_list": [10]} for i in range(300)
    ]
    write_jsonl(folder / "dqa.jsonl", rows)
    return folder


def question_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"]).rsplit("<", 1)[1].split(">")[0]


def ask(data: Path, server: FakeServer, *overrides: str, **flags: Any) -> Run:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "cache": False, "metrics": "rouge_l", **flags}
    return run(resolve_run(given, [f"llm.model={MODEL}", *overrides]))


def answers(done: Run) -> dict[str, str]:
    return {sample.question_id: sample.answer for sample in done.directory.read_samples()[1]}


def test_a_mix_of_passing_faults_changes_no_answer(many: Path, server: FakeServer, tmp_path: Path) -> None:
    rng = random.Random(20261121)
    n_hanging = 0
    answered: set[str] = set()
    again: list[str] = []

    def fault(n: int, body: dict[str, Any]) -> str | None:
        nonlocal n_hanging
        question = question_of(body)
        if question in answered:
            again.append(question)
        chosen = rng.choice(PASSING) if rng.random() < 0.3 else None
        n_hanging += chosen == "hang"
        if chosen == "hang" and n_hanging > 4:  # each takes until the deadline
            chosen = "reset"
        if chosen in (None, "goodbye"):
            answered.add(question)
        return chosen

    server.answer = lambda body: f"答{question_of(body)}"
    clean = ask(many, server, runs_dir=tmp_path / "clean")
    server.fault = fault
    done = ask(many, server, "llm.timeout_s=10", runs_dir=tmp_path / "faults")
    assert done.summary.counts == {
        "questions": 300,
        "ok": 300,
        **dict.fromkeys(("failed", "filtered", "truncated", "empty"), 0),
    }
    assert answers(done) == answers(clean)
    assert again == []
    assert len(server.calls) > 660


def test_concurrency_falls_on_refusals_and_climbs_again(many: Path, server: FakeServer) -> None:
    server.latency_s = 0.01
    n_refused = 0

    def fault(n: int, body: dict[str, Any]) -> str | None:
        nonlocal n_refused
        is_too_much = server.n_at_once > 4
        n_refused += is_too_much
        return "429" if is_too_much else None

    server.fault = fault
    done = ask(many, server, concurrency=64)
    assert done.summary.counts["ok"] == 300
    assert n_refused < 300  # 64 at once would be refused 15 times of 16 until they are through


def test_a_context_that_is_too_long_drops_notes_and_says_so(data_dir: Path, server: FakeServer) -> None:
    def fault(n: int, body: dict[str, Any]) -> str | None:
        return "overflow" if "【第2篇】" in body["messages"][-1]["content"] else None

    server.fault = fault
    done = ask(data_dir, server, retriever="oracle")
    samples, _ = done.directory.read_samples()
    assert {key: (sample.status, sample.notes_given, sample.notes_used) for key, sample in samples.items()} == {
        "1": ("ok", 1, 1),
        "2": ("ok", 2, 1),
        "3": ("ok", 1, 1),
    }
    assert "【第2篇】" not in samples["2"].messages[-1]["content"]
    server.fault = lambda n, body: "overflow"
    failed = ask(data_dir, server, retriever="bm25")
    assert failed.summary.counts["failed"] == 3
    assert all("maximum context length" in (sample.error or "") for sample in failed.directory.read_samples()[1])


def command(data: Path, server: FakeServer, *more: object) -> list[object]:
    asked = ["--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url, "--metrics", "rouge_l"]
    return ["run", "--data", data, *asked, "--no-cache", *more]


@pytest.mark.parametrize("fault", ["no model", "no model 400"])
def test_a_model_that_is_not_there_stops_the_run(data_dir: Path, server: FakeServer, cli: Cli, fault: str) -> None:
    server.fault = lambda n, body: fault
    done = cli(*command(data_dir, server, "--concurrency", 1))
    assert (done.code, len(server.calls)) == (1, 1)
    assert f"knows no model '{MODEL}'" in done.err
    assert "Traceback" not in done.err


def test_answers_of_another_model_are_kept_and_said_once(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.fault = lambda n, body: "other model tiny-model"
    done = cli(*command(data_dir, server, "--json"))
    assert (done.code, json.loads(done.out)["counts"]["ok"]) == (0, 3)
    assert done.err.count("answers as 'tiny-model', but 'fake-model'") == 1
    [path] = Path("runs").glob("*/samples.jsonl")
    assert all(json.loads(line)["model"] == "tiny-model" for line in path.read_text().splitlines())


def test_answers_that_trickle_run_into_the_deadline(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.fault = lambda n, body: "trickle" if n == 1 else None
    once = cli(*command(data_dir, server, "--set", "llm.timeout_s=2", "--json"))
    assert (once.code, json.loads(once.out)["counts"]["ok"], len(server.calls)) == (0, 3, 4)
    server.fault = lambda n, body: "trickle"
    never = cli(*command(data_dir, server, "--set", "llm.timeout_s=0.2", "--set", "llm.max_tries=2", "--fresh"))
    assert never.code == 3
    assert "3 of 3 questions failed" in never.err
    assert "no answer within 0.2 s (2 tries)" in cli("show", next(Path("runs").iterdir())).out


def test_prompts_that_the_server_cuts_are_counted(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.fault = lambda n, body: "usage 0" if n == 2 else "usage 30"
    done = cli(*command(data_dir, server, "--concurrency", 1))
    assert done.code == 0
    assert "2 prompts cut by the server (by its own count of tokens)" in done.out
    run_directory = next(Path("runs").iterdir())
    lines = [json.loads(line) for line in (run_directory / "samples.jsonl").read_text().splitlines()]
    assert [line["short_count"] for line in lines] == [True, False, True]
    assert "ok, prompt cut by the server" in cli("show", run_directory).out
    cut, _, _ = lines
    whole = cli("show", run_directory, "--question", cut["question_id"]).out
    assert "answer (ok, prompt cut by the server)" in whole
    assert "2 prompts cut by the server" in cli("leaderboard").out


@pytest.mark.parametrize(
    ("fault", "counts"),
    [
        ("filtered", {"filtered": 3}),
        ("filtered 400", {"filtered": 3}),
        ("length", {"truncated": 3}),
        ("null content", {"empty": 3}),
        ("400", {"failed": 3}),
        ("ended tool_calls", {"ok": 3}),
    ],
)
def test_the_status_of_every_end(data_dir: Path, server: FakeServer, fault: str, counts: dict[str, int]) -> None:
    server.fault = lambda n, body: fault
    done = ask(data_dir, server)
    assert {key: n for key, n in done.summary.counts.items() if n and key != "questions"} == counts
    assert json.loads((done.directory.path / "manifest.json").read_text())["state"] == "complete"
