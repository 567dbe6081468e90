"""Runs are found by folder, and by a part of their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.reports.finding import find_run, find_runs
from tests.conftest import Cli

NAMES = ("sample-bm25-llm-default-aaaa1111", "sample-bm25-llm-concise-bbbb2222", "other-none-llm-default-cccc3333")


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that look like runs, one level below the folder runs."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        folder = Path("runs/demo") / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    return Path("runs/demo")


def test_runs_one_level_down_are_found_where_there_are_none(nested: Path) -> None:
    expected = sorted(nested / name for name in NAMES)
    assert find_runs([Path("runs")]) == find_runs([nested]) == find_runs([nested, Path("runs")]) == expected
    assert find_runs([nested / NAMES[0]]) == [nested / NAMES[0]]
    shutil.copytree(nested / NAMES[2], "runs/own")
    assert find_runs([Path("runs")]) == [Path("runs/own")]
    with pytest.raises(UsageError, match="nowhere is not a folder of runs; begin with: qilin-rag run"):
        find_runs([Path("nowhere")])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("other", 2),
        (NAMES[1], 1),
        ("sample-bm25-llm-d", 0),
        ("bbbb2222", 1),
        ("cccc", 2),
        ("runs/demo/other", 2),
        ("demo/other", 2),
        (f"runs/demo/{NAMES[0]}", 0),
    ],
)
def test_a_part_of_a_name_means_one_run(nested: Path, name: str, meant: int) -> None:
    assert find_run(Path(name)).resolve() == (nested / NAMES[meant]).resolve()


def test_a_part_of_two_names_or_of_none_is_an_error(nested: Path) -> None:
    with pytest.raises(UsageError, match="sample-bm25 may be any of 2 runs; write more of its name: "):
        find_run(Path("sample-bm25"))
    with pytest.raises(UsageError, match="to see the runs: qilin-rag list runs"):
        find_run(Path("bm25"))
    with pytest.raises(UsageError, match="qilin-rag list runs"):
        find_run(Path("other"), [nested / NAMES[0]])


def test_every_command_takes_a_part_of_a_name(data_dir: Path, cli: Cli) -> None:
    made = [
        Path(cli("run", "--data", data_dir, "--retriever", name, "--runs-dir", folder, "-q").out.splitlines()[-1]).name
        for name, folder in (("bm25", "kept"), ("none", "kept"))
    ]
    short = [name.rpartition("-")[2][:6] for name in made]
    for command in (
        ["show", short[0]],
        ["compare", *short],
        ["score", *short, "--metrics", "rouge_l"],
        ["sensitivity", *short],
        ["export", short[0], "--format", "trec-rag", "--out", "answers.jsonl"],
        ["report", short[0]],
        ["judge", short[0], "--llm", "openai", "--set", "llm.model=m", "--dry-run"],
    ):
        done = cli(*command, "--runs-dir", "kept")
        assert (done.code, done.err.count("error")) == (0, 0), (command, done.err)
    assert made[0] in cli("show", short[0], "--runs-dir", "kept").out
    shutil.copytree("kept", "runs/copied")
    assert cli("reproduce", short[0], "-q").code == 0


def test_boards_and_reports_look_one_level_down(data_dir: Path, cli: Cli) -> None:
    cli("run", "--data", data_dir, "--runs-dir", "runs/demo", "-q")
    for command in (["leaderboard"], ["report"], ["list", "runs"]):
        assert cli(*command).code == 0
    assert "runs holds no run itself; these are the runs of runs/demo" in cli("leaderboard").err
    [listed] = json.loads(cli("list", "runs", "--json").out)
    assert (listed["state"], listed["done"], listed["total"]) == ("complete", 3, 3)
    assert list(listed["figures"])


def test_a_list_names_the_folders_below(nested: Path, cli: Cli) -> None:
    shutil.copytree(nested / NAMES[2], "runs/own")
    listed = cli("list", "runs").out
    assert listed.startswith("runs/own\n") and "3 more in runs/demo: qilin-rag list runs --runs-dir runs/demo" in listed


def test_folders_without_a_run_name_the_next_step(tmp_path: Path, cli: Cli) -> None:
    Path("runs").mkdir()
    for command in (["leaderboard"], ["report"], ["list", "runs"]):
        done = cli(*command)
        assert (done.code, "begin with: qilin-rag run" in done.err) == (2, True)
    folder = Path("runs/ranked")
    folder.mkdir()
    (folder / "ranking.json").write_text("{}")
    assert "it holds 1 ranking: qilin-rag leaderboard --task search" in cli("leaderboard").err
    assert "unreadable" in cli("list", "runs").out


def test_a_run_done_again_does_not_take_the_name_of_the_first(nested: Path) -> None:
    for folder in (Path("runs") / NAMES[0], Path("runs/reproduced") / NAMES[0]):
        shutil.copytree(nested / NAMES[0], folder)
    for name in (NAMES[0], "sample-bm25-llm-d", "aaaa"):
        assert find_run(Path(name)) == Path("runs") / NAMES[0]
