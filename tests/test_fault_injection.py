"""SIGKILL, and a full disk, at the writes of every command that writes: the old figures or the new, and it resumes.

The fast tests strike at a few of the writes; those marked slow at a number spread over all of them, or, with
QILIN_RAG_ALL_STRIKES set, at every one (half an hour on two cores).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qilin_rag.llms import retry
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.faults import Ended, Kind, run_with
from tests.rankers.made import Toy

N_FAST = 3
LATER = re.compile(r'"(latency_s|started|updated|generation_s|times|cached|tries|[a-z0-9_]*_s)": ?(\{[^}]*\}|[^,}\n]+)')
GOOD = "温度正确，步骤齐全。\n\n正确性：4\n完整性：3\n忠实性：5"
PACKED = re.compile(r"[A-Za-z0-9+/=]{200,}|\d{4}-\d\d-\d\d[T ]?[\d:.]*")  # what a report packs holds the time
RUN = "the only run"
TOY = f"{Toy.__module__}:{Toy.__name__}"
needs_torch = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("accelerate", "torch"))), reason="needs torch (make test-all installs it)"
)


class Scene(NamedTuple):
    """A command, what was done before it, and the folder or file that it writes."""

    before: Sequence[Sequence[object]]
    command: Sequence[object]
    out: str


def without_times(text: str) -> str:
    return LATER.sub(r'"\1": 0', text)


def content(path: Path) -> dict[str, str]:
    """What files hold, but for times and hidden ones; of appended lines the order doesn't count."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    texts = {}
    for file in files:
        if file.name.startswith(".") or "log" in file.suffix:
            continue
        text = without_times(file.read_text(encoding="utf-8", errors="surrogateescape"))
        text = PACKED.sub("", text)
        texts[file.name] = "\n".join(sorted(text.splitlines())) if file.suffix == ".jsonl" else text
    return texts


def told(cli: Cli, by: Sequence[object]) -> dict[str, tuple[int, str]]:
    """What every reader of what this command writes says; an error must be one line."""
    runs = sorted(Path("runs").glob("*/")) or [Path("runs/none")]
    readers: dict[str, list[object]] = {
        "leaderboard": ["leaderboard", "--format", "json"],
        "show": ["show", runs[0], "--json"],
    }
    if by[0] == "train":
        data = by[by.index("--data") + 1]
        readers = {"rank": ["rank", "--checkpoint", "ranker", "--ranker", TOY, "--data", data, "--fresh", "--json"]}
    said = {}
    for name, command in readers.items():
        done = cli(*command)
        assert "Traceback" not in done.err
        assert done.code in (0, 1, 2), done.err
        assert done.code == 0 or done.err.count("error: ") == 1, done.err
        said[name] = (done.code, without_times(done.out))
    return said


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a small Qilin, to train on."""
    out = tmp_path_factory.mktemp("world") / "qilin"
    counts = {"notes": 200, "searches": 200, "recommendations": 100, "dqa": 10, "users": 20}
    synthesize(resolve_world(counts, 1), out)
    return out


@pytest.fixture
def scenes(data_dir: Path, world: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Scene]:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    server.answer = lambda body: GOOD if "正确性" in str(body) else "False"
    asked = ["--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}", "--set=llm.max_tries=1"]
    do = ["run", "--data", data_dir, "--metrics", "rouge_l", "--concurrency", 1, "--json"]
    run = RUN
    marked = ["score", run, "--metrics", "rouge_l", "--set", "metrics.rouge_l.strip_markup=false", "--json"]
    judging = ["judge", run, *asked, "--concurrency", 1, "--json"]
    filtering = ["data", "filter", data_dir, *asked, "--concurrency", 1, "--out", "filtered", "--json"]
    board: list[object] = ["leaderboard", "--format", "md", "--out", "board.md"]
    page: list[object] = ["report", "--out", "page.html"]
    of_toy = ("n_notes=200", "max_steps=12", "evaluate_every=3", "log_every=1", "patience=99", "device=cpu")
    training = ["train", TOY, "--data", world, "--out", "ranker", "--json"]
    training += [word for setting in of_toy for word in ("--set", f"ranker.{setting}")]
    lines: list[object] = ["export", run, "--format", "trec-rag", "--out", "lines.jsonl"]
    return {
        "run": Scene([], do, "runs"),
        "run with a model": Scene([], [*do, *asked], "runs"),
        "run of more": Scene([[*do, "--limit", 2]], do, "runs"),
        "run afresh": Scene([do], [*do, "--fresh"], "runs"),
        "score": Scene([do], marked, "runs"),
        "judge": Scene([do], judging, "runs"),
        "filter": Scene([], filtering, "filtered"),
        "filter again": Scene([[*filtering, "--limit", 2]], filtering, "filtered"),
        "leaderboard": Scene([do, board, marked], board, "board.md"),
        "report": Scene([do, page, marked], page, "page.html"),
        "export": Scene([do, lines, marked], lines, "lines.jsonl"),
        "train": Scene([], training, "ranker"),
    }


def named(command: Sequence[object]) -> list[object]:
    """With the run in place of its placeholder."""
    return [next(Path("runs").glob("*/")) if word == RUN else word for word in command]


class Stage:
    """The working folder, put back before each strike to what it was before the command."""

    def __init__(self, scene: Scene, cli: Cli, folder: Path, kept: Path) -> None:
        self._scene, self._cli, self._folder, self._kept = scene, cli, folder, kept
        for command in scene.before:
            done = cli(*named(command))
            assert done.code == 0, done.err
        shutil.copytree(folder, kept)
        self._old = self._see()
        whole = self.run()
        assert whole.code == 0, whole.err
        self.n_events = whole.n_events
        self._new = self._see()
        self.put_back()

    def _see(self) -> tuple[dict[str, tuple[int, str]], dict[str, str]]:
        return told(self._cli, self._scene.command), content(self._folder / self._scene.out)

    def put_back(self) -> None:
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(self._kept, self._folder, dirs_exist_ok=True)

    def run(self, kind: Kind | None = None, at: int = 0) -> Ended:
        return run_with(named(self._scene.command), self._folder, kind, at)

    def strike(self, kind: Kind, at: int) -> None:
        self.put_back()
        struck = self.run(kind, at)
        if kind == "kill":
            assert struck.code == -signal.SIGKILL, struck.err
        self.check(struck)

    def check(self, struck: Ended) -> None:
        """After a strike: readers, then the same command again."""
        assert "Traceback" not in struck.err, struck.err
        if struck.code > 0:
            assert struck.code in (1, 2), struck.err
            *_, last = struck.err.splitlines()
            assert [line for line in struck.err.splitlines() if line.startswith("error: ")] == [last], struck.err
            assert re.search(r"No space left|File too large|can't be written to", last), last
        now = told(self._cli, self._scene.command)
        for reader, said in now.items():
            known = [self._old[0][reader], self._new[0][reader]]
            is_unfinished = self._scene.command[0] == "run" and self._is_unfinished(reader, said)
            assert said in known or is_unfinished, (reader, said)
        if Path(self._scene.out).is_file():
            assert content(Path(self._scene.out)) in (self._old[1], self._new[1])
        again = self.run()
        assert again.code == 0, again.err
        assert told(self._cli, self._scene.command) == self._new[0]
        assert self._without_aside(content(Path(self._scene.out))) == self._without_aside(self._new[1])
        left = [each for each in Path().rglob(".*") if each.suffix == ".tmp" or "-new" in each.name]
        assert not left

    def _is_unfinished(self, reader: str, said: tuple[int, str]) -> bool:
        """Whether a reader says that the run is not complete; figures that it has are none, the old or the new."""
        code, out = said
        if code or reader != "show":
            return code in (1, 2)
        known = [json.loads(text)["figures"] for old, text in (self._old[0]["show"], self._new[0]["show"]) if not old]
        shown = json.loads(out)
        return shown["state"] == "incomplete" and shown["figures"] in [{}, *known]

    @staticmethod
    def _without_aside(files: dict[str, str]) -> dict[str, str]:
        return {name: text for name, text in files.items() if "-until-" not in name}


MOST_STRIKES = 6
SCENES = [
    "run",
    "run with a model",
    "run of more",
    "run afresh",
    "score",
    "judge",
    "filter",
    "filter again",
    "leaderboard",
    "report",
    "export",
    pytest.param("train", marks=needs_torch),
]


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, scenes: dict[str, Scene], cli: Cli, own_folder: Path, tmp_path_factory: Any
) -> Stage:
    if request.param == "train":
        importlib.import_module("qilin_rag.rankers.training")  # once, not in every child
    return Stage(scenes[request.param], cli, own_folder, tmp_path_factory.mktemp("kept") / "all")


@pytest.mark.parametrize(
    "stage", ["run", "score", "judge", "filter again", "leaderboard", "report", "export"], indirect=True
)
def test_a_few_writes(stage: Stage) -> None:
    points = sorted({1 + i * (stage.n_events - 1) // (N_FAST - 1) for i in range(N_FAST)})
    for i, at in enumerate(points):
        stage.strike("kill" if i % 2 else "full", at)


@pytest.mark.slow
@pytest.mark.parametrize("stage", SCENES, indirect=True)
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_writes_all_over(stage: Stage, kind: Kind) -> None:
    step = 1 if os.environ.get("QILIN_RAG_ALL_STRIKES") else max(1, stage.n_events // MOST_STRIKES)
    failed = []
    for at in range(1, stage.n_events + 1, step):
        try:
            stage.strike(kind, at)
        except AssertionError as error:
            failed.append(f"{at}: {error}")
    assert not failed, "\n".join([f"{len(failed)} of {stage.n_events}", *failed])
