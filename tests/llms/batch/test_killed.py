"""kill -9 at each step of a batch: nothing is submitted twice, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.pipeline.run import run
from tests.batch_server import BatchServer
from tests.conftest import hear_signals, wait_until
from tests.fake_server import MODEL
from tests.llms.batch.runs import config, records_of, run_by_batch, samples_of
from tests.test_crash import make_data

N = 30
EXPECTED: list[Any] = []  # the samples and scores of the same run, asked one by one
# A command that ends as if it were killed before its n-th line (n < 0: between the mark of the line and the line).
CHILD = """
import os, signal, sys
from qilin_rag.core import files
from qilin_rag.llms.batch import steps
steps.FIRST_POLL_S = 0.02
at, write, n = int(sys.argv.pop(1)), files.LineWriter.write, 0
def counted(self, exchange, before=None):
    global n
    n += 1
    if n == abs(at):
        if at < 0:
            before(os.fstat(self._file.fileno()).st_size + 1)
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, exchange, before)
files.LineWriter.write = counted
from qilin_rag.cli import main
main()
"""


def launch(service: BatchServer, data: Path, at: int = 0, repeat: int = 1) -> subprocess.Popen[str]:
    line = ["run", "--data", data, "--llm", "openai", f"--set=llm.model={MODEL}", "--base-url", service.url]
    line += ["--batch", "--no-cache", "--metrics", "rouge_l", "--repeat", repeat]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(at), *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )


def check_resumed(service: BatchServer, data: Path, n_batches: int = 1) -> None:
    """Resume, and compare with a run that asks one by one."""
    made = run_by_batch(service, data)
    assert len(service.batches) == n_batches and set(service.asked.values()) == {1}
    assert [record["state"] for record in records_of(made.path)] == ["closed"] * n_batches
    lines = (made.path / "samples.jsonl").read_text().splitlines()
    assert len(lines) == N == made.summary.counts["ok"]
    if not EXPECTED:
        one = run(config(service, data, runs_dir="one")).path
        EXPECTED.append((samples_of(one), (one / "scores.jsonl").read_bytes()))
    assert (samples_of(made.path), (made.path / "scores.jsonl").read_bytes()) == EXPECTED[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "many", N)


@pytest.mark.parametrize(
    ("step", "when", "n_batches_before"),
    [
        ("POST /v1/files", "before", 0),
        ("POST /v1/files", "after", 0),
        ("POST /v1/batches", "before", 0),
        ("POST /v1/batches", "after", 1),
        ("GET /v1/batches/batch_1", "after", 1),
        ("GET /v1/files/file-output-1/content", "after", 1),
    ],
)
def test_killed_at_a_step_of_the_service(
    service: BatchServer, data: Path, step: str, when: str, n_batches_before: int
) -> None:
    pids: list[int] = []

    def kill(n: int, method: str, path: str) -> str | None:
        if f"{method} {path}" != step or not pids:
            return None
        os.kill(pids.pop(), signal.SIGKILL)
        return "reset"

    setattr(service, when, kill)
    process = launch(service, data)
    pids.append(process.pid)
    assert process.wait(60) == -signal.SIGKILL, process.communicate()[1]
    process.communicate()
    assert len(service.batches) == n_batches_before and not list(Path("runs").glob("*/summary.json"))
    check_resumed(service, data)


@pytest.mark.parametrize("at", [1, -N // 2])
def test_killed_before_a_sample_is_written(service: BatchServer, data: Path, at: int) -> None:
    process = launch(service, data, at)
    assert process.wait(60) == -signal.SIGKILL, process.communicate()[1]
    process.communicate()
    [path] = Path("runs").glob("*/samples.jsonl")
    assert len(path.read_text().splitlines()) == abs(at) - 1
    n_requests = len(service.requests)
    check_resumed(service, data)
    assert not [each for each in service.requests[n_requests:] if "batches" in each or "files" in each]


def test_killed_twice_and_a_new_batch_for_what_the_first_lacks(service: BatchServer, data: Path) -> None:
    service.end = lambda n: ("expired", 20) if n == 1 else ("completed", None)
    for at in (10, 15):
        process = launch(service, data, at)
        assert process.wait(60) == -signal.SIGKILL, process.communicate()[1]
        process.communicate()
    made = run_by_batch(service, data)
    asked = [len(service.lines_of(batch)) for batch in service.batches.values()]
    assert asked == [N, 10] and made.summary.counts["ok"] == N
    assert {record["state"] for record in records_of(made.path)} == {"closed"}


def test_a_kill_between_a_mark_and_its_line_gives_no_answer_twice(service: BatchServer, data: Path) -> None:
    """Repeats of a question have equal requests, whose replies must not be mixed up."""
    n_asked: dict[str, int] = {}

    def line(n: int, custom_id: str, body: dict[str, object]) -> tuple[int, object]:
        key = json.dumps(body, sort_keys=True)
        n_asked[key] = n_asked.get(key, 0) + 1
        return 200, service.completion(f"第{n_asked[key]}次")

    service.line = line
    run_by_batch(service, data)
    for at in (7, -7):
        process = launch(service, data, at, repeat=4)
        assert process.wait(60) == -signal.SIGKILL, process.communicate()[1]
        process.communicate()
    made = run_by_batch(service, data, repeat=4)
    lines = [json.loads(each) for each in (made.path / "repeats.jsonl").read_text().splitlines()]
    answers: dict[str, list[str]] = {}
    for each in lines:
        answers.setdefault(each["question_id"], []).append(each["answer"])
    assert len(answers) == N and all(sorted(of) == ["第2次", "第3次", "第4次"] for of in answers.values())
    assert len(service.batches) == 2


def test_ctrl_c_says_that_the_batch_goes_on(service: BatchServer, data: Path) -> None:
    service.n_polls = 10**6
    process = launch(service, data)
    polled: Callable[[], bool] = lambda: service.requests.count("GET /v1/batches/batch_1") > 2  # noqa: E731
    wait_until(polled, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert "batch batch_1 stays at the service: the same command waits for it again" in " ".join(err.split())
    assert "qilin-rag batch cancel" in err
    service.n_polls = 1
    check_resumed(service, data)
