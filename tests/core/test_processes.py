"""Processes that work for this one: all end with it, a dead one is one line, and little is in memory at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from qilin_rag.core.errors import QilinError
from qilin_rag.core.processes import in_processes
from tests.conftest import hear_signals, is_alive, wait_until

# Two processes that say who they are, and work for ten minutes; imported once more, it would say so.
SCRIPT = """
import os, time
from contextlib import closing
from pathlib import Path
from qilin_rag.core.processes import in_processes

with open("imported.txt", "a") as file:
    print(os.getpid(), file=file)

def work(number):
    Path(f"worker-{number}.txt").write_text(str(os.getpid()))
    time.sleep(600)

with closing(in_processes(2, work, iter([0, 1, 2]), "a process that works")) as done:
    list(done)
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """It runs, and both its processes work; a module of the folder must not be theirs."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "tempfile.py").write_text("raise SystemExit('a file of the user')")
    process = subprocess.Popen(
        [sys.executable, "-P", "script.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
        process_group=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        wait_until(lambda: all(path.exists() and path.read_text() for path in workers_of(tmp_path)), process)
        yield process
    finally:
        process.kill()
        process.communicate()


def workers_of(folder: Path) -> list[Path]:
    return [folder / f"worker-{number}.txt" for number in (0, 1)]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(
    script: subprocess.Popen[str], tmp_path: Path, signum: signal.Signals
) -> None:
    pids = [int(path.read_text()) for path in workers_of(tmp_path)]
    assert len({script.pid, *pids}) == 3 and all(map(is_alive, pids))
    if signum == signal.SIGINT:
        os.killpg(script.pid, signum)  # as a terminal does
    else:
        script.kill()
    out, err = script.communicate(timeout=30)
    assert script.returncode == -signum
    assert out == "" and err.count("Traceback") == (signum == signal.SIGINT)
    wait_until(lambda: not any(map(is_alive, pids)), timeout_s=10)
    assert (tmp_path / "imported.txt").read_text().split() == [str(script.pid)]


def test_a_process_that_is_killed_is_named_with_what_to_do(script: subprocess.Popen[str], tmp_path: Path) -> None:
    first, second = (int(path.read_text()) for path in workers_of(tmp_path))
    os.kill(first, signal.SIGKILL)  # as the system does where memory is short
    _, err = script.communicate(timeout=30)
    assert err.splitlines()[-1].endswith("a process that works ended by SIGKILL; the same command resumes")
    wait_until(lambda: not is_alive(second), timeout_s=10)


def test_few_items_are_read_ahead_and_results_come_as_they_are_made() -> None:
    n_read = 0

    def items() -> Iterator[int]:
        nonlocal n_read
        for item in range(40):
            n_read += 1
            yield item

    n_done = 0
    with closing(in_processes(2, _double, items(), "a process that doubles")) as results:
        found = []
        for result in results:
            found.append(result)
            n_done += 1
            assert n_read - n_done <= 4
    assert sorted(found) == [2 * item for item in range(40)]


def test_a_path_object_among_the_folders_of_modules_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/nowhere")])
    with closing(in_processes(1, abs, [-1, -2], "a process")) as results:  # a module of tests brings pytest with it
        assert sorted(results) == [1, 2]


@pytest.mark.parametrize(("error", "words"), [(OSError(28, "No space left"), "No space"), (KeyError("x"), "x")])
def test_what_a_process_raises_is_raised_here(error: Exception, words: str) -> None:
    with pytest.raises(type(error), match=words), closing(in_processes(2, _fail, [error] * 9, "it")) as results:
        list(results)


def test_without_psutil_and_pgrep_the_processes_are_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("loky.backend.utils.psutil", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(QilinError, match="it ended with status 9, so do this; the same command resumes"):
        list(in_processes(2, _end, [9, 600], "it", ", so do this"))
    assert time.monotonic() - started < 60


def _double(item: int) -> int:
    return 2 * item


def _fail(error: Exception) -> None:
    raise error


def _end(status: int) -> None:
    if status == 600:
        time.sleep(status)
    os._exit(status)
