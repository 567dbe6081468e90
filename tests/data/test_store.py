from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Hit, Sample
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.scoring import add_scores
from qilin_rag.reports.measured import read_run
from tests.conftest import QUESTIONS, Cli, write_jsonl


def sample(question_id: str, answer: str = "答", status: str = "ok") -> Sample:
    return Sample(
        question_id=question_id,
        query="问",
        status=status,
        hits=[Hit(note_idx=7, score=1.5, rank=1)],
        notes_given=1,
        notes_used=1,
        messages=[],
        answer=answer,
        raw=answer,
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    with directory.locked(), directory.line_writer() as writer:
        writer.write(sample("1", "第一\n行"))
        writer.write(sample("2"))
    return directory


def append(run: RunDirectory, question_id: str) -> None:
    with run.locked(), run.line_writer() as writer:
        writer.write(sample(question_id))


def test_samples_come_back_and_a_later_line_supersedes(run: RunDirectory) -> None:
    with run.locked(), run.line_writer() as writer:
        writer.write(sample("1", "again"))
    samples, lines = run.read_samples()
    assert list(samples) == ["1", "2"]
    assert samples["1"].answer == "again"
    assert [line.answer for line in lines] == ["第一\n行", "答", "again"]


def test_every_cut_of_the_last_line_is_survived(run: RunDirectory) -> None:
    """Whatever part of the last line reached the disk: whole lines stay, the half one is asked again."""
    path = run.path / "samples.jsonl"
    whole = path.read_bytes()
    first_end = whole.index(b"\n") + 1
    for cut in range(first_end, len(whole) + 1):
        path.write_bytes(whole[:cut])
        survivors = {"1", "2"} if cut >= len(whole) - 1 else {"1"}
        assert set(run.read_samples()[0]) == survivors
        append(run, "3")
        assert set(run.read_samples()[0]) == survivors | {"3"}
        assert path.read_bytes().count(b"\n") == len(survivors) + 1


def test_a_half_first_line_and_a_long_half_line_are_survived(run: RunDirectory) -> None:
    path = run.path / "samples.jsonl"
    path.write_bytes(b'{"question_id": "1", "query": "' + b"x" * 200_000)
    append(run, "2")
    assert set(run.read_samples()[0]) == {"2"}


def test_a_broken_line_in_the_middle_is_named_not_skipped(run: RunDirectory) -> None:
    path = run.path / "samples.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(UsageError, match=r"samples\.jsonl, line 1: not a sample"):
        run.read_samples()


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_free(run: RunDirectory) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from qilin_rag.pipeline.run_directory import RunDirectory\n"
            "with RunDirectory(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)",
            str(run.path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="in use by another process"), run.locked():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with run.locked():
        pass


def test_a_failed_write_leaves_the_old_file(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_scores([])
    (run.path / "scores.jsonl").write_text("old\n")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(QilinError, match=r"scores\.jsonl can't be written: No space left"):
        run.write_scores([])
    assert (run.path / "scores.jsonl").read_text() == "old\n"
    assert not list(run.path.glob("*.tmp"))


def test_the_trec_run_is_six_columns_whatever_the_ids(run: RunDirectory) -> None:
    run.write_trec_run([sample("a b\tc\n"), sample("2")])
    lines = (run.path / "run.trec").read_text().splitlines()
    assert lines == ["a%20b%09c%0A Q0 7 1 1 run", "2 Q0 7 1 1 run"]


def test_what_is_no_run_directory_is_said(tmp_path: Path, run: RunDirectory) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json does not exist"):
        RunDirectory(tmp_path).read_manifest()
    (run.path / "manifest.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UsageError, match="schema version 99, this program reads 1"):
        run.read_manifest()
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        run.read_manifest()


def test_a_fresh_start_keeps_the_old_samples(run: RunDirectory) -> None:
    aside = run.set_aside_samples()
    assert aside is not None
    assert aside.read_bytes().count(b"\n") == 2
    assert run.read_samples() == ({}, [])
    assert run.set_aside_samples() is None


@pytest.mark.parametrize("name", ["samples.jsonl", "manifest.json", "scores.jsonl", "run.trec"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_nothing_is_written_through_links_or_into_pipes(data_dir: Path, cli: Cli, name: str, kind: str) -> None:
    run = Path(cli("run", "--data", data_dir).out.splitlines()[-1])
    elsewhere = data_dir / "precious"
    elsewhere.write_text("precious")
    (run / name).unlink()
    match kind:
        case "link":
            (run / name).symlink_to(elsewhere)
        case "pipe":
            os.mkfifo(run / name)
        case _:
            (run / name).mkdir()
    done = cli("run", "--data", data_dir)
    assert done.code == 2
    assert f"{run / name} is a link" in done.err
    assert elsewhere.read_text() == "precious"
    assert cli("show", run).code in (0, 2)


def test_a_full_disk_is_one_line_and_what_was_written_is_kept(data_dir: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: both refuse a write half way."""
    write_jsonl(data_dir / "dqa.jsonl", [{**QUESTIONS[0], "search_idx": i} for i in range(200)])
    command = [sys.executable, "-m", "qilin_rag", "run", "--data", str(data_dir), "--metrics", "rouge_l", "--json"]
    limits = (100_000, resource.RLIM_INFINITY)
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    assert full.returncode == 1
    assert re.fullmatch(r"error: runs/\S+/samples\.jsonl can't be written: File too large; .* is kept\n", full.stderr)
    [samples] = Path("runs").glob("*/samples.jsonl")
    kept = samples.read_bytes().rpartition(b"\n")[0].split(b"\n")
    assert 10 < len(kept) < 200
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert json.loads(again.stdout)["counts"]["ok"] == 200
    lines = samples.read_bytes().splitlines()
    assert len(lines) == 200
    assert lines[: len(kept)] == kept


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(data_dir: Path, tmp_path: Path, cli: Cli) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = cli("run", "--data", data_dir, "--runs-dir", locked)
    assert done.code == 1
    assert "can't be written: Permission denied" in done.err


def test_a_folder_that_cannot_be_made_is_one_line(data_dir: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").write_text("")
    done = cli("run", "--data", data_dir, "--runs-dir", tmp_path / "file" / "runs")
    assert done.code == 1
    assert "can't be written: Not a directory" in done.err


FIGURES = ["scores.jsonl", "summary.json"]


@pytest.mark.parametrize("n_moves", range(7))
def test_killed_between_scores_and_summary_no_figure_is_under_anothers_signature(
    data_dir: Path, cli: Cli, n_moves: int
) -> None:
    run = Path(cli("run", "--data", data_dir, "--metrics", "rouge_l").out.splitlines()[-1])
    old = measured(run)
    new = [NEW] * len(old)
    child = os.fork()
    if child == 0:
        die_at_move(n_moves)
        score(run)
        os._exit(0)
    os.waitpid(child, 0)
    with suppress(UsageError):
        assert measured(run) in (old, new)
    score(run)
    assert measured(run) == new
    with RunDirectory(run).locked():
        assert not list(run.glob(".*.tmp"))


def test_a_full_disk_at_the_summary_leaves_the_old_figures(
    data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(cli("run", "--data", data_dir, "--metrics", "rouge_l").out.splitlines()[-1])
    before = [(run / name).read_bytes() for name in FIGURES]
    sync, calls = os.fsync, iter(range(100))

    def full_disk(descriptor: int) -> None:
        if next(calls) == 1:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    directory = RunDirectory(run)
    scores, summary = directory.read_scores(), directory.read_summary()
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(QilinError, match="No space left"):
        directory.write_figures(scores[:1], summary)
    assert [(run / name).read_bytes() for name in FIGURES] == before


@pytest.mark.parametrize("name", ["server.log", "judge-server.log", "filter-server.log", "review.csv", ".lock"])
def test_logs_tables_and_locks_that_are_links_are_refused(data_dir: Path, cli: Cli, name: str) -> None:
    run = Path(cli("run", "--data", data_dir).out.splitlines()[-1])
    elsewhere = data_dir / "precious"
    elsewhere.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(elsewhere)
    done = cli("run", "--data", data_dir)
    assert done.code == 2
    assert f"{run / name} is a link" in done.err
    assert elsewhere.read_text() == "precious"


NEW = ("another", 0.25)


def score(run: Path) -> None:
    """As `score` with another setting does: other values under another signature."""
    directory = RunDirectory(run)
    _, lines = directory.read_samples()
    made = [
        one.model_copy(update={"value": NEW[1], "signature": NEW[0], "reason": None}) for one in directory.read_scores()
    ]
    samples = list(directory.read_samples_of(directory.read_questions()).values())
    with directory.locked():
        add_scores(directory, samples, lines, made, seed=0)


def measured(run: Path) -> list[tuple[str, float | None]]:
    """What the leaderboard takes from a run; its summary and its scores must tell the same."""
    found = read_run(run)
    for metric, of in found.summary.metrics.items():
        values = found.values[metric][~np.isnan(found.values[metric])]
        assert of.value == pytest.approx(sum(values) / len(values))
    return [(of.signature, of.value) for of in found.summary.metrics.values()]


def die_at_move(n: int) -> None:
    """Let SIGKILL end this process at the n-th rename or removal in a run directory."""
    moves = iter(range(100))

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def move(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.suffix in (".tmp", ".json") and next(moves) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(path, *arguments, **options)

        return move

    Path.replace = dying(Path.replace)  # type: ignore[method-assign]
    Path.unlink = dying(Path.unlink)  # type: ignore[method-assign]


@pytest.mark.parametrize("larger_first", [True, False])
def test_scores_of_other_questions_under_another_signature_are_no_contradiction(
    data_dir: Path, cli: Cli, larger_first: bool
) -> None:
    other = ["--set", "metrics.rouge_l.strip_markup=false"]
    command = ["run", "--data", data_dir, "--metrics", "rouge_l"]
    run = Path(cli(*command).out.splitlines()[-1])
    for step in ([*command, "--limit", 2], ["score", run, *other])[:: 1 if larger_first else -1]:
        assert cli(*step).code == 0
    found = read_run(run)
    values = found.values["rouge_l"][~np.isnan(found.values["rouge_l"])]
    assert found.summary.metrics["rouge_l"].value == pytest.approx(sum(values) / len(values))


def test_scores_that_were_edited_are_not_shown_under_the_old_figure(data_dir: Path, cli: Cli) -> None:
    run = Path(cli("run", "--data", data_dir, "--metrics", "rouge_l").out.splitlines()[-1])
    scores = run / "scores.jsonl"
    scores.write_text(re.sub(r'"rouge_l","value":[0-9.]+', '"rouge_l","value":0.9', scores.read_text()))
    for command in (["leaderboard"], ["show", run]):
        assert "not of one scoring" in cli(*command).err
    assert cli("score", run).code == 0
    assert cli("leaderboard").code == 0
