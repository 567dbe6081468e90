"""kill -9 at random moments, Ctrl-C, and what is left on disk after."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import hear_signals, wait_until, write_jsonl
from tests.fake_server import MODEL, FakeServer

CONCURRENCY = 8


def make_data(folder: Path, n_questions: int) -> Path:
    folder.mkdir()
    notes = [{"note_idx": i, "title": f"笔记{i}", "content": f"第{i}号的做法：泡{i}分钟。"} for i in range(50)]
    questions = [
        {"search_idx": i, "query": f"<{i}>号怎么做", "answers": [f"泡{i % 50}分钟。"], "ref_note_idx_list": [i % 50]}
        for i in range(n_questions)
    ]
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "dqa.jsonl", questions)
    return folder


def question_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"]).rsplit("<", 1)[1].split(">")[0]


def start(data: Path, server: FakeServer, runs_dir: Path) -> subprocess.Popen[str]:
    return launch(data, runs_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url)


def launch(data: Path, runs_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qilin_rag", "run", "--data", data, "--runs-dir", runs_dir, "--json", *arguments]
    command += ["--concurrency", str(CONCURRENCY), "--no-cache"]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )


def finished_questions(runs_dir: Path) -> set[str]:
    finished = set()
    for path in runs_dir.glob("*/samples.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                finished.add(json.loads(line)["question_id"])
    return finished


def check_kills(tmp_path: Path, n_questions: int, n_kills: int, latency_s: float) -> None:
    data = make_data(tmp_path / "many", n_questions)
    answer = lambda body: f"泡{int(question_of(body)) % 7}分钟。"  # noqa: E731
    rng = random.Random(20261121)
    n_calls = n_questions // n_kills - 1  # that are answered in a session, so that something is left for the last

    def kill_one(server: FakeServer) -> None:
        done_before, calls_before = finished_questions(tmp_path / "killed"), len(server.calls)
        server.fault = lambda n, body: "hang" if n > calls_before + n_calls else None
        process = start(data, server, tmp_path / "killed")
        wait_until(lambda: len(server.calls) > calls_before + (0 if done_before else CONCURRENCY), process)
        time.sleep(rng.uniform(0, 2 * n_calls * latency_s / CONCURRENCY))
        process.kill()
        process.communicate()
        assert not {question_of(body) for body in server.calls[calls_before:]} & done_before

    with FakeServer(latency_s=latency_s, answer=answer) as server:
        for _ in range(n_kills):
            kill_one(server)
        server.fault = lambda n, body: None
        calls_before, done_before = len(server.calls), finished_questions(tmp_path / "killed")
        out, err = start(data, server, tmp_path / "killed").communicate(timeout=120)
        assert not {question_of(body) for body in server.calls[calls_before:]} & done_before
        assert json.loads(out)["counts"]["ok"] == n_questions, err
        assert len(server.calls) - n_questions <= CONCURRENCY * n_kills
        assert 0 < len(done_before) < n_questions
        start(data, server, tmp_path / "whole").communicate(timeout=120)
    [killed] = (tmp_path / "killed").glob("*/summary.json")
    [whole] = (tmp_path / "whole").glob("*/summary.json")
    assert killed.read_bytes() == whole.read_bytes()
    for name in ("scores.jsonl", "questions.jsonl"):
        assert killed.with_name(name).read_bytes() == whole.with_name(name).read_bytes()


def test_killed_three_times(tmp_path: Path) -> None:
    check_kills(tmp_path, n_questions=60, n_kills=3, latency_s=0.1)


@pytest.mark.slow
def test_killed_six_times_in_a_run_of_300_questions(tmp_path: Path) -> None:
    check_kills(tmp_path, n_questions=300, n_kills=6, latency_s=0.1)


@pytest.mark.parametrize(
    ("signum", "said"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP"),
    ],
)
def test_a_signal_keeps_what_is_done_and_says_so(tmp_path: Path, signum: signal.Signals, said: str) -> None:
    data = make_data(tmp_path / "many", 60)
    with FakeServer(latency_s=0.2, fault=lambda n, body: "hang" if n > 30 else None) as server:
        process = start(data, server, tmp_path / "runs")
        wait_until(lambda: finished_questions(tmp_path / "runs"), process)
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 128 + signum
        assert err.startswith(f"{said}; every finished answer is kept") and err.count("\n") == 1
        [manifest] = (tmp_path / "runs").glob("*/manifest.json")
        assert json.loads(manifest.read_text())["state"] == "incomplete"
        n_kept = len(finished_questions(tmp_path / "runs"))
        server.fault = lambda n, body: None
        out, _ = start(data, server, tmp_path / "runs").communicate(timeout=60)
        assert json.loads(out)["counts"]["ok"] == 60
        assert 0 < n_kept < 60


def test_ctrl_c_stops_a_reader_that_never_waits(tmp_path: Path) -> None:
    data = make_data(tmp_path / "many", 200)
    (tmp_path / "busy.py").write_text(
        "import time\nfrom qilin_rag.llms.extractive import Extractive\n"
        "class Busy(Extractive):\n    async def generate(self, prompt):\n"
        "        time.sleep(0.1)\n        return await super().generate(prompt)\n"
    )
    process = launch(data, tmp_path / "runs", "--llm", "busy:Busy")
    wait_until(lambda: finished_questions(tmp_path / "runs"), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert 0 < len(finished_questions(tmp_path / "runs")) < 100


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_another_command_is_one_line(tmp_path: Path, signum: signal.Signals) -> None:
    slow = "import time\nfrom qilin_rag.retrievers import Retriever\nprint('here', flush=True)\n"
    slow += "class Slow(Retriever):\n    def search(self, questions, notes, k):\n        time.sleep(60)\n"
    (tmp_path / "slow.py").write_text(slow)
    process = subprocess.Popen(
        [sys.executable, "-m", "qilin_rag", "retrieve", "--retriever", "slow:Slow", "--out", "x.trec"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    time.sleep(0.5)
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert err == {signal.SIGINT: "interrupted\n", signal.SIGTERM: "ended by SIGTERM\n"}[signum]
    assert not Path("x.trec").exists()
