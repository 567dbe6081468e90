"""`show` and `list runs`: a run's state, figures, and questions in the data's order."""

from __future__ import annotations

import json
from pathlib import Path

from qilin_rag.pipeline.run_directory import RunDirectory
from tests.conftest import Cli, launch, wait_until
from tests.fake_server import MODEL, FakeServer


def test_figures_stand_before_questions_in_the_order_of_the_data(data_dir: Path, cli: Cli) -> None:
    run = Path(cli("run", "--data", data_dir, "-q").out.splitlines()[-1])
    samples = run / "samples.jsonl"
    samples.write_text("".join(sorted(samples.read_text().splitlines(keepends=True), reverse=True)))
    shown = cli("show", run).out
    state, figures, *queries = (
        shown.index(text)
        for text in ("3 of 3 questions asked: all ok", "95% interval", "冷萃咖啡怎么做", "多肉怎么养", "手冲水温")
    )
    assert [state, figures, *queries] == sorted([state, figures, *queries])
    assert "settings   top_k 5, seed 0" in shown
    first = cli("show", run, "--limit", "1").out
    assert "手冲水温" not in first and "1 of 3 questions asked; --all lists all" in first
    assert "手冲水温" in cli("show", run, "--limit", "1", "--all").out
    as_json = json.loads(cli("show", run, "--json").out)
    assert as_json["state"] == "complete"
    assert as_json["figures"] == json.loads((run / "summary.json").read_text())["metrics"]


def test_a_run_that_is_written_is_no_killed_one(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.fault = lambda n, body: "hang" if n == 2 else None
    command = ["run", "--data", data_dir, "--llm", "openai", "--base-url", server.url, "--concurrency", "1"]
    process = launch(*command, "--set", f"llm.model={MODEL}")
    try:
        wait_until(lambda: len(server.calls) >= 2, process)
        [path] = Path("runs").iterdir()
        live, listed = cli("show", path).out, cli("list", "runs").out
        assert "state      in use: a process is writing it; 1 of 3 questions asked: all ok" in live
        assert "killed" not in live and "cut off" not in live
        assert "in use, 1 of 3 questions" in listed
    finally:
        process.kill()
        process.communicate()
    stopped = cli("show", path).out
    assert "state      incomplete: stopped or killed; the command that began it resumes it; 1 of 3" in stopped
    assert "1 session killed" in stopped
    assert "incomplete, 1 of 3 questions" in cli("list", "runs").out


def test_failures_are_counted_wherever_a_run_is_listed(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.fault = lambda n, body: "null content"
    cli("run", "--data", data_dir, "--llm", "openai", "--base-url", server.url, "--set", f"llm.model={MODEL}", "-q")
    [path] = Path("runs").iterdir()
    status = json.loads((path / "samples.jsonl").read_text().splitlines()[0])["status"]
    assert status != "ok"
    assert f"3 of 3 questions asked: all {status}" in cli("show", path).out
    assert f"complete, 3 questions: all {status}" in cli("list", "runs").out
    cli("run", "--data", data_dir, "-q", "--runs-dir", "runs")
    [other] = [each for each in Path("runs").iterdir() if each != path]
    assert f"{path.name}: all {status}" in " ".join(cli("compare", path, other).out.split())
    assert f"{path.name}: 3 {status} of 3" in " ".join(cli("leaderboard").out.split())


def test_latency_is_of_the_calls_that_were_made(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    command = ["run", "--data", data_dir, "--llm", "openai", "--base-url", server.url, "--set", f"llm.model={MODEL}"]
    asked = Path(cli(*command, "-q").out.splitlines()[-1])
    cached = Path(cli(*command, "-q", "--runs-dir", "again").out.splitlines()[-1])
    assert "(3 calls)" in cli("show", asked).out
    said = cli("show", cached).out
    assert "latency" not in said
    assert "3 answers from the cache; when first asked: " in said and " + 30 completion tokens" in said


def test_a_lock_file_that_nobody_holds_is_no_use(data_dir: Path, cli: Cli) -> None:
    directory = RunDirectory(Path(cli("run", "--data", data_dir, "-q").out.splitlines()[-1]))
    assert (directory.path / ".lock").exists() and not directory.is_in_use
    with directory.locked():
        assert directory.is_in_use
    assert not directory.is_in_use


def test_runs_dir_is_for_runs_alone(cli: Cli) -> None:
    done = cli("list", "llms", "--runs-dir", "runs")
    assert (done.code, "--runs-dir is for: list runs" in done.err) == (2, True)
