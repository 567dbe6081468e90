"""What hooks are told, when, and that nothing they do changes a run: its files, its output and its exit code."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qilin_rag as qr
from qilin_rag.core import registry
from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.hooks.calling import call_ended, check_hooks
from qilin_rag.pipeline.hooks.ids import read_ids
from qilin_rag.pipeline.hooks.record import flat_params, read_tracked
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

HOOKS = '''
import os, sys, threading, time
from pathlib import Path
from qilin_rag import Hook, TrackedRun, UsageError


class Kept(Hook):
    """Keep what it was told."""

    def ended(self, run: TrackedRun) -> str:
        print("a banner")
        with open("told.jsonl", "a") as told:
            print(run.model_dump_json(), file=told)
        return f"id-{run.fingerprint[:4]}"

    def failed(self, run: TrackedRun, reason: str) -> str | None:
        Path("reason.txt").write_text(f"{run.metrics} {reason}")
        return None


class Raises(Hook):
    def ended(self, run):
        raise OSError("http://me:secret@tracker is gone")


class Leaves(Hook):
    def ended(self, run):
        sys.exit(7)


class Dies(Hook):
    def ended(self, run):
        print("last words", flush=True)
        os._exit(9)


class Hangs(Hook):
    timeout_s = 2.0

    def ended(self, run):
        threading.Thread(target=time.sleep, args=(600,)).start()
        if os.fork() == 0:
            time.sleep(600)
        time.sleep(600)


class Threads(Hook):
    def ended(self, run):
        threading.Thread(target=time.sleep, args=(600,)).start()


class BadId(Hook):
    def ended(self, run):
        return "../" * 3


class Lacking(Hook):
    def check(self):
        raise UsageError("a tracker needs its package: pip install it")

    def ended(self, run):
        pass
'''
FAILING = {
    "Raises": "OSError: http://***@tracker is gone",
    "Leaves": "SystemExit: 7",
    "Dies": "its process ended with status 9: last words",
    "Hangs": "no answer within 2 s",
    "BadId": "can't be kept as the id of a run",
}


@pytest.fixture
def hooks(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of hooks in the working directory."""
    Path("own_hooks.py").write_text(HOOKS, encoding="utf-8")
    monkeypatch.syspath_prepend(own_folder)
    yield "own_hooks"
    sys.modules.pop("own_hooks", None)


def told() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("told.jsonl").read_text().splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder whose content does not hang on the clock."""
    timed = ("manifest.json", "samples.jsonl", ".lock")
    return {path.name: b"" if path.name in timed else path.read_bytes() for path in folder.iterdir()}


def test_a_hook_gets_what_the_run_says(hooks: str, data_dir: Path, cli: Cli) -> None:
    command = ("run", "--data", data_dir, "--retriever", "bm25", "--metrics", "rouge_l", "--set", "retriever.k1=1.5")
    done = cli(*command, "--track", f"{hooks}:Kept", "--json")
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    [run] = told()
    assert (run["name"], run["path"]) == (Path(record["run"]).name, str(Path(record["run"]).resolve()))
    assert run["params"]["retriever.settings.k1"] == 1.5
    assert run["params"]["data_sha256"] == RunDirectory(Path(record["run"])).read_manifest().data["sha256"]
    assert run["metrics"]["rouge_l"] == pytest.approx(record["metrics"]["rouge_l"]["value"])
    assert (run["metrics"]["rouge_l.n"], run["metrics"]["count/ok"], run["metrics"]["cost/amount"]) == (3, 3, 0)
    rows = [dict(zip(run["columns"], row, strict=True)) for row in run["rows"]]
    scores = {
        score.question_id: score.value
        for score in RunDirectory(Path(record["run"])).read_scores()
        if score.metric == "rouge_l"
    }
    assert {row["question_id"]: row["rouge_l"] for row in rows} == scores
    assert [Path(file).name for file in run["files"]] == ["manifest.json", "summary.json"]
    assert read_ids(Path(record["run"])) == {f"{hooks}:Kept": f"id-{run['fingerprint'][:4]}"}
    assert "track" not in json.loads((Path(record["run"]) / "manifest.json").read_text())["config"]
    again = cli(*command, "--track", f"{hooks}:Kept", "--quiet")
    assert again.code == 0
    assert [each["tracked_as"] for each in told()] == [None, f"id-{run['fingerprint'][:4]}"]


def test_intervals_have_their_ends() -> None:
    run = qr.run(metrics="rouge_l", limit=30)
    low, high = run.metrics["rouge_l"].ci95 or (None, None)
    metrics = read_tracked(run.path).metrics
    assert (metrics["rouge_l.low"], metrics["rouge_l.high"]) == (low, high)


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_hook_is_one_warning(name: str, hooks: str, data_dir: Path, cli: Cli) -> None:
    command = ("run", "--data", data_dir, "--retriever", "bm25", "--metrics", "rouge_l", "--no-cache", "--json")
    alone = cli(*command, "--runs-dir", "alone")
    begun = time.monotonic()
    tracked = cli(*command, "--runs-dir", "tracked", "--track", f"{hooks}:{name}")
    assert time.monotonic() - begun < 60
    assert (alone.code, tracked.code) == (0, 0)
    assert json.loads(alone.out)["metrics"] == json.loads(tracked.out)["metrics"]
    [warning] = tracked.err.splitlines()
    assert FAILING[name] in warning and f"--with {hooks}:{name}" in warning
    [one], [other] = Path("alone").iterdir(), Path("tracked").iterdir()
    assert content(one) == content(other)


def test_threads_that_a_tracker_leaves_keep_nobody(hooks: str, data_dir: Path, cli: Cli) -> None:
    begun = time.monotonic()
    done = cli("run", "--data", data_dir, "--metrics", "rouge_l", "--track", f"{hooks}:Threads", "--json")
    assert (done.code, done.err, time.monotonic() - begun < 60) == (0, "", True)


def test_what_can_t_track_is_an_error_before_anything_is_asked(hooks: str, data_dir: Path, cli: Cli) -> None:
    for tracker, said in (
        ("mlfow", "did you mean 'mlflow'"),
        (f"{hooks}:Lacking", "pip install it"),
        (f"{hooks}:No", "no Hook"),
    ):
        for command in (("run", "--data", data_dir), ("sweep", "small_machine", "--llms", "extractive", "--limit", 3)):
            done = cli(*command, "--track", tracker)
            assert (done.code, said in done.err) == (2, True), done.err
    assert not Path("runs").exists()


def test_a_package_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None)
    for name in ("mlflow", "trackio", "wandb"):
        with pytest.raises(UsageError, match=rf"qilin-rag\[{name}\]"):
            check_hooks([name])


def test_a_folder_of_its_name_is_no_package(monkeypatch: pytest.MonkeyPatch, own_folder: Path) -> None:
    (own_folder / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(own_folder)
    from qilin_rag.core.extras import missing_modules

    assert missing_modules("no_such_tracker", "json") == ["no_such_tracker"]


def test_a_file_may_name_trackers_but_no_code(hooks: str, data_dir: Path, cli: Cli) -> None:
    Path("run.yaml").write_text(f"data: {data_dir}\ntrack: ['{hooks}:Kept']\n")
    refused = cli("run", "--config", "run.yaml")
    assert (refused.code, "registered name" in refused.err) == (2, True)
    Path("run.yaml").write_text(f"data: {data_dir}\ntrack: [kept]\n")
    register("kept", f"{hooks}:Kept")
    done = cli("run", "--config", "run.yaml", "--quiet")
    assert done.code == 0, done.err
    assert len(told()) == 1
    assert "kept" in cli("list", "hooks").out


def register(name: str, path: str) -> None:
    """Write what an installer leaves of a package with a hook."""
    info = Path("their_hooks-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-hooks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[qilin_rag.hooks]\n{name} = {path}\n")


def test_without_a_tracker_nothing_is_scanned(data_dir: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    scanned: list[str] = []
    plain = registry.entry_points

    def scan(group: str) -> Any:
        scanned.append(group)
        return plain(group)

    monkeypatch.setattr(registry, "entry_points", scan)
    monkeypatch.setattr("qilin_rag.pipeline.hooks.calling.subprocess", None)
    assert cli("run", "--data", data_dir, "--metrics", "rouge_l", "--quiet").code == 0
    assert scanned and "qilin_rag.hooks" not in scanned


def test_a_run_that_an_error_stops_is_told(hooks: str, data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.fault = lambda n, body: "401"
    tracker = ("--track", f"{hooks}:Kept")
    asked = ("--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}", "--set=llm.max_tries=1")
    done = cli("run", "--data", data_dir, *asked, "--metrics", "rouge_l", *tracker)
    assert done.code == 1
    assert Path("reason.txt").read_text().startswith("{} ")
    assert not Path("told.jsonl").exists()


def test_every_run_of_a_sweep_and_a_judge_are_told(hooks: str, data_dir: Path, server: FakeServer, cli: Cli) -> None:
    tracker = ("--track", f"{hooks}:Kept", "--quiet")
    Path("grid.yaml").write_text(
        f"data: {data_dir}\nretrievers: [none, bm25]\nllms: [extractive]\nmetrics: [rouge_l]\n"
    )
    assert cli("sweep", "grid.yaml", *tracker).code == 0
    runs = told()
    assert [run["params"]["retriever.name"] for run in runs] == ["none", "bm25"]
    server.answer = lambda body: "正确性：4\n完整性：3\n忠实性：5"
    judge = ("judge", runs[1]["path"], "--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}")
    assert cli(*judge, *tracker).code == 0
    judged = told()[-1]
    assert judged["metrics"]["judge_correctness"] == 4
    assert judged["tracked_as"] == f"id-{judged['fingerprint'][:4]}"
    both = cli(*judge[:2], runs[0]["path"], *judge[2:], *tracker)
    assert (both.code, "--track" in both.err) == (2, True)


def test_a_ranking_is_told(hooks: str, own_folder: Path, cli: Cli) -> None:
    world = own_folder / "qilin"
    synthesize(resolve_world({"notes": 200, "searches": 60, "recommendations": 20, "dqa": 10, "users": 20}, 1), world)
    done = cli("rank", "--ranker", "bm25", "--data", world, "--track", f"{hooks}:Kept", "--json")
    assert done.code == 0, done.err
    [run] = told()
    summary = json.loads(done.out)
    assert run["metrics"]["mrr@10"] == pytest.approx(summary["metrics"]["mrr@10"]["value"])
    assert run["params"]["ranker.name"] == "bm25"
    assert len(run["rows"]) == summary["counts"]["requests"]
    assert cli("track", summary["run"], "--with", f"{hooks}:Kept").code == 0


def test_runs_that_exist_are_tracked_by_their_names(hooks: str, data_dir: Path, cli: Cli) -> None:
    run = cli("run", "--data", data_dir, "--metrics", "rouge_l", "--quiet").out.splitlines()[-1]
    done = cli("track", run, "--with", f"{hooks}:Kept,{hooks}:Threads", "--quiet")
    assert (done.code, done.out.strip()) == (0, run)
    failed = cli("track", run, "--with", f"{hooks}:Raises", "--quiet")
    assert (failed.code, failed.out) == (1, "")
    assert cli("track", "runs/none", "--with", f"{hooks}:Kept").code == 2
    assert len(told()) == 1


def test_a_stranger_s_run_names_no_hook_and_no_id(hooks: str, data_dir: Path, cli: Cli) -> None:
    path = Path(cli("run", "--data", data_dir, "--metrics", "rouge_l", "--quiet").out.splitlines()[-1])
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["config"]["track"] = [f"{hooks}:Kept"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "trackers.json").write_text(json.dumps({f"{hooks}:Kept": "../../etc", "mlflow": 3, "wandb": "a b"}))
    assert cli("reproduce", path).code == 0
    assert not Path("told.jsonl").exists()
    assert read_ids(path) == {}
    for broken in ("[]", "{", "\xff"):
        (path / "trackers.json").write_text(broken, encoding="latin-1")
        assert call_ended([f"{hooks}:Kept"], path) == 0
    (path / "trackers.json").unlink()
    (path / "trackers.json").symlink_to(Path("elsewhere.json"))
    assert call_ended([f"{hooks}:Kept"], path) in (0, 1)
    assert not Path("elsewhere.json").exists()


def test_parameters_hold_no_key_and_no_address_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "one-secret-value")
    settings = {
        "llm": {"base_url": "http://me:pw@host/v1", "api_key": "x", "api_key_env": "OPENAI_API_KEY", "max_tokens": 5},
        "url": "https://host/v1?key=1",
        "note": "it is one-secret-value",
        "headers": [{"token": "t"}],
        "of": ["bm25", "random"],
        "limit": None,
        "serve": False,
    }
    assert flat_params(settings) == {
        "llm.api_key_env": "OPENAI_API_KEY",
        "llm.max_tokens": 5,
        "of": '["bm25", "random"]',
        "serve": False,
    }


def test_python_names_trackers_too(hooks: str, data_dir: Path) -> None:
    run = qr.run(data=data_dir, metrics="rouge_l", track=f"{hooks}:Kept")
    assert [each["name"] for each in told()] == [run.path.name]
