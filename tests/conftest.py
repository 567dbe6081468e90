"""Fixtures for all tests: a folder of their own for caches and runs, a small data set, the command line, a server."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

from qilin_rag.cli import main
from tests.fake_server import FakeServer

os.environ["HF_HUB_OFFLINE"] = "1"  # no test fetches a model, or finds one that its user happens to have
os.environ["HF_HUB_CACHE"] = str(Path(__file__).with_name("no-such-folder"))
hypothesis.settings.register_profile("no times", deadline=None)  # tests check results, never times
hypothesis.settings.load_profile("no times")

NOTES = [
    {"note_idx": 10, "title": "冷萃咖啡", "content": "粗研磨咖啡粉80克，冷水800毫升，冷藏12小时后过滤。#咖啡[话题]#"},
    {"note_idx": 11, "title": "手冲咖啡", "content": "水温92度，粉水比1:15，闷蒸30秒。[赞R]"},
    {"note_idx": 12, "title": "多肉度夏", "content": "六月起遮阴，超过35度断水，保持通风。"},
    {"note_idx": 13, "title": "多肉换盆", "content": "春天换盆，晾根两天，一周后再浇水。"},
    {"note_idx": 14, "title": "", "content": "今天也是想辞职的一天😭"},
]
QUESTIONS = [
    {
        "search_idx": 1,
        "query": "冷萃咖啡怎么做",
        "answers": ["冷萃用**粗研磨**咖啡粉80克，加冷水800毫升，冷藏12小时后过滤[第1篇](#)。"],
        "ref_note_idx_list": [10],
    },
    {
        "search_idx": 2,
        "query": "多肉怎么养",
        "answers": ["六月起遮阴，超过35度断水[第1篇](#)；春天换盆，晾根两天[第2篇](#)。", "夏天遮阴断水，春天换盆。"],
        "ref_note_idx_list": [12, 13],
    },
    {"search_idx": 3, "query": "手冲水温", "answers": ["92度。"], "ref_note_idx_list": [11]},
]


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def end_at_once(*_: object) -> Any:
    """What a process does that the system kills."""
    os._exit(9)


def hear_signals() -> None:
    """For a child process: tests in the background, or under nohup, ignore some signals, and it would as well."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


def launch(*arguments: object) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "qilin_rag", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[str] | None = None, timeout_s: float = 120
) -> None:
    """Go on once the condition holds; where the process ends before that, what it said is shown."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether this process runs, or could."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder, with caches there and no keys or defaults of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it
    for name in ("QILIN_RAG_DATA", "QILIN_RAG_IMAGES", "OPENAI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return tmp_path


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The small data set as a folder of the generic layout."""
    folder = tmp_path / "small"
    folder.mkdir()
    write_jsonl(folder / "notes.jsonl", NOTES)
    write_jsonl(folder / "dqa.jsonl", QUESTIONS)
    return folder


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["qilin-rag", *map(str, arguments)])
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr("qilin_rag.cli.signals.install", lambda: None)  # they are this process's
        monkeypatch.setattr("qilin_rag.cli._end_unflushed", lambda: sys.exit(1))  # this process has more to do
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        ours = logging.getLogger("qilin_rag")  # its handlers write to this call's standard error
        ours.handlers = []
        ours.setLevel(logging.NOTSET)
        code = left.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """An OpenAI-compatible server on loopback that answers at once; tests set its faults and latency."""
    with FakeServer() as running:
        yield running


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models, where a developer has one."""
    folder = Path(os.environ.get("QILIN_RAG_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the shared data folder: {folder} is not there (set QILIN_RAG_SHARED)")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: qilin-rag[test-browser]")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found[0], args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()
