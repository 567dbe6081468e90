"""The state of runs as they are watched equals what a look at the files says, whatever happens to them in between."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from qilin_rag.config.run import resolve_run
from qilin_rag.core.types import Usage
from qilin_rag.pipeline.cost import cost_of, price_of
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.scoring import summarise
from qilin_rag.rankers.ranking_directory import RankConfig, RankedBy, RankingDirectory, RankingManifest, RankingSummary
from qilin_rag.reports.run_list import list_runs
from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.rows import RunRow
from qilin_rag.viewer.watch import RunWatcher
from qilin_rag.viewer.watched import Budget, WatchedRun
from tests.fake_server import MODEL, FakeServer
from tests.reports.conftest import made
from tests.reports.made_runs import make_run

__all__ = ["made"]
RUNS = Path("runs")
STATES = {"in use": "running", "incomplete": "interrupted"}


@pytest.fixture
def directory(data_dir: Path) -> RunDirectory:
    """A complete run of three questions whose LLM has a price."""
    return run(resolve_run({"data": str(data_dir), "retriever": "bm25", "metrics": "rouge_l"})).directory


class Look:
    """A watcher whose clock goes on by a second at each look."""

    def __init__(self, *folders: Path) -> None:
        self.now_s = 1e9
        self._watcher = RunWatcher(Folders(folders or [RUNS]), lambda: self.now_s)

    def __call__(self) -> dict[str, RunRow]:
        self.now_s += 1
        return self._watcher.rows()

    def one(self) -> RunRow:
        [row] = self().values()
        return row


def as_listed(rows: dict[str, RunRow]) -> dict[str, tuple[Any, ...]]:
    return {
        row.key: (row.state, row.done, row.total, row.statuses, row.figures, row.why is None) for row in rows.values()
    }


def listed(*folders: Path) -> dict[str, tuple[Any, ...]]:
    return {
        each.run.name: (
            STATES.get(each.state, each.state),
            each.done,
            each.total,
            each.statuses,
            each.figures,
            each.why is None,
        )
        for each in list_runs(folders or [RUNS])
    }


def lines_of(directory: RunDirectory) -> list[bytes]:
    return (directory.path / "samples.jsonl").read_bytes().splitlines(keepends=True)


def write(directory: RunDirectory, lines: Sequence[bytes], name: str = "samples.jsonl") -> None:
    (directory.path / name).write_bytes(b"".join(lines))


def reopen(directory: RunDirectory) -> None:
    """Make a complete run incomplete, as one that goes on does."""
    directory.write_manifest(directory.read_manifest().model_copy(update={"state": "incomplete"}))
    (directory.path / "summary.json").unlink(missing_ok=True)


def half_line(directory: RunDirectory) -> None:
    reopen(directory)
    lines = lines_of(directory)
    write(directory, [*lines[:-1], lines[-1][: len(lines[-1]) // 2]])


def line_without_break(directory: RunDirectory) -> None:
    reopen(directory)
    lines = lines_of(directory)
    write(directory, [*lines[:-1], lines[-1].removesuffix(b"\n")])


def asked_again(directory: RunDirectory) -> None:
    reopen(directory)
    sample = directory.read_samples()[1][0]
    with directory.line_writer() as writer:
        writer.write(sample.model_copy(update={"status": "failed", "answer": "", "error": "no reply"}))


def question_of_another_run(directory: RunDirectory) -> None:
    reopen(directory)
    sample = directory.read_samples()[1][0]
    with directory.line_writer() as writer:
        writer.write(sample.model_copy(update={"question_id": "elsewhere"}))


def set_aside(directory: RunDirectory) -> None:
    reopen(directory)
    directory.set_aside_samples()


def rewritten_in_place(directory: RunDirectory) -> None:
    """Other content in the same file, and more of it than before."""
    reopen(directory)
    samples = [each.model_copy(update={"status": "truncated"}) for each in directory.read_samples()[1]]
    write(directory, [each.model_dump_json().encode() + b"\n" for each in samples])


def other_questions(directory: RunDirectory) -> None:
    reopen(directory)
    directory.write_questions(directory.read_questions()[:1])


def damaged_line(directory: RunDirectory) -> None:
    reopen(directory)
    lines = lines_of(directory)
    write(directory, [lines[0], b"{}\n", *lines[1:]])


def scores_apart(directory: RunDirectory) -> None:
    scores = [score.model_copy(update={"value": 0.5, "signature": "other"}) for score in directory.read_scores()]
    directory.write_scores(scores)


def no_summary(directory: RunDirectory) -> None:
    (directory.path / "summary.json").unlink()


def no_scores(directory: RunDirectory) -> None:
    (directory.path / "scores.jsonl").unlink()


def damaged_summary(directory: RunDirectory) -> None:
    (directory.path / "summary.json").write_text("[]")


def damaged_manifest(directory: RunDirectory) -> None:
    (directory.path / "manifest.json").write_text("{")


def no_questions(directory: RunDirectory) -> None:
    reopen(directory)
    (directory.path / "questions.jsonl").unlink()


CHANGES = [
    reopen,
    half_line,
    line_without_break,
    asked_again,
    question_of_another_run,
    set_aside,
    rewritten_in_place,
    other_questions,
    damaged_line,
    scores_apart,
    no_summary,
    no_scores,
    damaged_summary,
    damaged_manifest,
    no_questions,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_is_shown_as_it_is_listed_and_followed_to_each_state(
    directory: RunDirectory, change: Callable[[RunDirectory], None]
) -> None:
    kept = Path("kept")
    shutil.copytree(directory.path, kept)
    followed = Look()
    assert as_listed(followed()) == listed()
    for _ in range(2):  # and back to where it was
        change(directory)
        assert as_listed(followed()) == as_listed(Look()()) == listed()
        with directory.locked():
            assert as_listed(followed()) == as_listed(Look()()) == listed()
        shutil.rmtree(directory.path)
        shutil.copytree(kept, directory.path)
        assert as_listed(followed()) == listed()


def test_lines_that_arrive_in_pieces_are_counted_once(directory: RunDirectory) -> None:
    reopen(directory)
    content = b"".join(lines_of(directory) * 3)
    write(directory, [])
    followed, rng = Look(), random.Random(20261130)
    with (directory.path / "samples.jsonl").open("ab", buffering=0) as file, directory.locked():
        at = 0
        while at < len(content):
            piece = content[at : at + rng.randrange(1, 1500)]
            at += file.write(piece)
            assert as_listed(followed()) == listed()
    row = followed.one()
    assert (row.state, row.done, row.is_read) == ("interrupted", 3, True)


def test_many_runs_and_those_that_go(made: Path) -> None:
    for number in range(4):
        make_run(made, f"run{number}", [0.1 * number, 0.5, None])
    directories = [RunDirectory(path) for path in sorted(made.iterdir())]
    reopen(directories[1])
    scores_apart(directories[2])
    followed = Look(made)
    assert as_listed(followed()) == listed(made)
    shutil.rmtree(directories[0].path)
    assert as_listed(followed()) == listed(made)
    make_run(made, "run9", [0.3])
    assert as_listed(followed()) == listed(made)
    assert {row.state for row in followed().values()} == {"interrupted", "complete", "unreadable"}


def test_a_ranking_is_followed_as_well(directory: RunDirectory) -> None:
    ranking = RankingDirectory(RUNS / directory.path.name.upper())
    ranking.path.mkdir()
    manifest = RankingManifest(
        state="incomplete",
        fingerprint="0" * 64,
        identity={},
        config=RankConfig(data="qilin", task="search"),
        ranker=RankedBy(name="bm25", settings={}, changed={}),
        label="qilin",
        requests_sha256="0",
        packages={},
        python="3.11",
        git_commit=None,
        started="2026-11-30T00:00:00+00:00",
        updated="2026-11-30T00:00:00+00:00",
    )
    ranking.write_manifest(manifest)
    followed = Look()
    assert as_listed(followed()) == listed()
    with RunDirectory(ranking.path).locked():
        assert as_listed(followed()) == listed()
    figure = next(iter(directory.read_summary().metrics.values()))
    summary = RankingSummary(metrics={"MRR@10": figure}, counts={"requests": 7}, slices=[])
    (ranking.path / "summary.json").write_text(summary.model_dump_json())
    ranking.write_manifest(manifest.model_copy(update={"state": "complete"}))
    rows = followed()
    assert as_listed(rows) == listed()
    row = rows[f"ranking/{ranking.path.name}"]
    assert (row.done, row.unit, row.retriever) == (7, "requests", "bm25")


def test_what_does_not_change_is_not_read_again(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = Look()
    first = followed.one()
    opened: list[str] = []
    really = os.open

    def noted(path: Any, *more: Any, **options: Any) -> int:
        opened.append(Path(path).name)
        return really(path, *more, **options)

    monkeypatch.setattr(os, "open", noted)
    assert followed.one() is first and opened == []
    reopen(directory)
    followed.one()
    opened.clear()
    assert followed.one().state == "interrupted" and set(opened) <= {".lock"}
    with (directory.path / "samples.jsonl").open("ab") as file:
        file.write(lines_of(directory)[0])
    opened.clear()
    followed.one()
    assert "samples.jsonl" in opened and "manifest.json" not in opened


def test_a_large_run_is_read_in_parts_while_others_are_shown(directory: RunDirectory) -> None:
    lines = lines_of(directory)
    reopen(directory)
    questions = directory.read_questions()
    many = [questions[0].model_copy(update={"id": f"q{i}"}) for i in range(200)]
    directory.write_questions(many)
    sample = directory.read_samples()[1][0]
    write(
        directory,
        [sample.model_copy(update={"question_id": each.id}).model_dump_json().encode() + b"\n" for each in many],
    )
    watched = WatchedRun("run", directory.path)
    dones = []
    while not (row := watched.look(0.0, Budget(1, is_ample=True))).is_read:
        dones.append(row.done)
    assert len(dones) > 1 and dones == sorted(set(dones)) and row.done == 200
    write(directory, lines)
    assert watched.look(0.0, Budget(1, is_ample=False)).is_read is False  # it waits for its turn
    assert watched.look(0.0, Budget(1 << 20, is_ample=True)).done == 0


def test_cost_and_tokens_are_those_of_all_calls(directory: RunDirectory) -> None:
    reopen(directory)
    price = {"currency": "CNY", "prompt_per_mtok": 4.0, "completion_per_mtok": 12.0, "as_of": "2026-11-01"}
    manifest = directory.read_manifest()
    llm = {"name": "openai", "settings": {"model": "some", "price": price}}
    manifest = manifest.model_copy(update={"config": {**manifest.config, "llm": llm}})
    directory.write_manifest(manifest)
    sample = directory.read_samples()[1][0].model_copy(update={"finish_reason": "stop"})
    counts = [(100, 10), (70, 5), (None, None), (0, 3)]
    used = [sample.model_copy(update={"usage": Usage(prompt_tokens=a, completion_tokens=b)}) for a, b in counts]
    followed = Look()
    for name in ("samples.jsonl", "repeats.jsonl"):
        for n in range(1, len(used) + 1):
            write(directory, [each.model_dump_json().encode() + b"\n" for each in used[:n]], name)
            samples, lines = directory.read_samples()
            summary = summarise(list(samples.values()), lines, [], repeats=directory.read_repeats())
            row = followed.one()
            assert row.cost == cost_of(summary, price_of(manifest)) and row.usage == summary.usage


def test_rate_and_time_left(directory: RunDirectory) -> None:
    reopen(directory)
    lines = lines_of(directory)
    write(directory, lines[:1])
    os.utime(directory.path / "manifest.json", (1e9 - 20, 1e9 - 20))
    followed = Look()
    with directory.locked():
        row = followed.one()  # 21 seconds after the first session began
        assert row.rate == pytest.approx(60 / 21, abs=0.1)
        assert row.left_s == pytest.approx(42, abs=1)
        write(directory, lines[:2])
        followed.now_s += 60
        assert followed.one().rate == pytest.approx(120 / 81, abs=0.1)
        followed.now_s += 60
        row = followed.one()  # nothing came in the last minute, so it is over a longer time
        assert row.rate == pytest.approx(120 / 141, abs=0.1) and row.left_s == pytest.approx(70, abs=3)
        followed.now_s += 3600
        row = followed.one()
        assert (row.rate, row.left_s) == (0.0, None)
    row = followed.one()
    assert (row.state, row.rate, row.left_s) == ("interrupted", None, None)
    with directory.locked():
        write(directory, lines)
        followed.now_s += 60
        row = followed.one()
        assert row.left_s is None and row.done == 3


def test_the_time_left_of_a_slow_run_is_not_of_a_rounded_rate(directory: RunDirectory) -> None:
    reopen(directory)
    write(directory, lines_of(directory)[:1])
    os.utime(directory.path / "manifest.json", (1e9 - 999, 1e9 - 999))
    with directory.locked():
        row = Look().one()  # one question in 1000 seconds, two left
    assert (row.rate, row.left_s) == (0.06, 2000)


def test_a_resumed_run_has_a_rate_once_it_was_watched(directory: RunDirectory) -> None:
    reopen(directory)
    manifest = directory.read_manifest()
    assert manifest.times is not None
    directory.write_manifest(manifest.model_copy(update={"times": manifest.times.model_copy(update={"sessions": 2})}))
    lines = lines_of(directory)
    write(directory, lines[:1])
    followed = Look()
    with directory.locked():
        assert followed.one().rate is None
        write(directory, lines[:2])
        followed.now_s += 9
        row = followed.one()
        assert (row.rate, row.left_s) == (6.0, 10)


def test_watching_changes_nothing(directory: RunDirectory) -> None:
    reopen(directory)

    def state() -> dict[str, tuple[int, int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in files}

    files = sorted(directory.path.iterdir())
    assert ".lock" in {path.name for path in files}
    before, followed = state(), Look()
    for _ in range(3):
        followed()
        assert not directory.is_in_use
    assert state() == before and sorted(directory.path.iterdir()) == files


def test_the_cost_of_the_query_stage_counts_also_in_an_unfinished_run(data_dir: Path, server: FakeServer) -> None:
    server.answer = lambda body: "1. 冷水泡咖啡粉\n2. 冷藏过滤咖啡\n3. 冷泡"
    price = "{currency: USD, prompt_per_mtok: 1, completion_per_mtok: 2, as_of: 2026-11}"
    flags = {"data": str(data_dir), "llm": "openai", "base_url": server.url, "metrics": "rouge_l", "query": "multi"}
    done = run(resolve_run(flags, [f"llm.model={MODEL}", f"llm.price={price}"]))
    assert done.manifest.queries is not None and done.manifest.queries.cost.amount
    followed = Look()
    assert followed.one().cost == done.manifest.cost
    reopen(done.directory)
    done.directory.write_manifest(done.directory.read_manifest().model_copy(update={"queries": None, "cost": None}))
    assert followed.one().cost == done.manifest.cost
    replies = (done.path / "queries.jsonl").read_bytes().splitlines(keepends=True)
    write(done.directory, [*replies, replies[0]], "queries.jsonl")  # a call that was made again
    cost = followed.one().cost
    assert cost is not None and done.manifest.cost is not None
    assert (cost.amount or 0) > (done.manifest.cost.amount or 0)


@pytest.mark.parametrize(
    "name", ["samples.jsonl", "questions.jsonl", "summary.json", "scores.jsonl", "repeats.jsonl", "queries.jsonl"]
)
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_not_a_plain_file_is_not_followed(directory: RunDirectory, name: str, kind: str) -> None:
    followed = Look()
    followed()
    path = directory.path / name
    if path.exists():
        path.rename(Path("elsewhere"))
    else:
        Path("elsewhere").touch()
    if kind == "link":
        path.symlink_to(Path("elsewhere").absolute())
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    row = followed.one()
    assert row.state == "unreadable" and name in str(row.why)


def test_a_line_that_is_too_long_is_named(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    reopen(directory)
    monkeypatch.setattr("qilin_rag.viewer.tail.MOST_BYTES", 1 << 18)
    lines = lines_of(directory)
    write(directory, [lines[0], b'{"x": "' + b"x" * (1 << 20)])
    followed = Look()
    row = followed.one()
    assert row.state == "unreadable" and "samples.jsonl, line 2" in str(row.why)
    write(directory, lines)
    assert followed.one().done == 3


@pytest.mark.parametrize("config", [[], {"llm": 1}, {"llm": {"settings": {"price": {"currency": "x"}}}}])
def test_a_strangers_manifest_harms_only_its_own_row(directory: RunDirectory, config: Any) -> None:
    shutil.copytree(directory.path, RUNS / "stranger")
    path = RUNS / "stranger" / "manifest.json"
    content = RunDirectory(RUNS / "stranger").read_manifest().model_dump_json()
    path.write_text(json.dumps({**json.loads(content), "config": config}))
    assert sorted(row.state for row in Look()().values()) == ["complete", "unreadable"]
