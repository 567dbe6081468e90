"""What is finished stays finished: whatever goes wrong later, answers and figures that were there are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from qilin_rag.scorers import AnswerScorer
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.scored import score_run


class Broken(AnswerScorer):
    """Fails when it is asked."""

    metric = "broken"

    def signatures(self) -> dict[str, str]:
        return {"broken": "broken|v1"}

    def score_answers(self, answers: Any, references: Any) -> list[float]:
        raise RuntimeError("no figure")


def ask(data: Path, url: str, **flags: Any) -> Run:
    given = {"data": str(data), "llm": "openai", "base_url": url, "cache": False, "metrics": "rouge_l", **flags}
    return run(resolve_run(given, [f"llm.model={MODEL}"]))


@pytest.fixture
def finished(data_dir: Path) -> tuple[Run, str]:
    """A finished run, and the address of its server, which is gone."""
    with FakeServer() as server:
        return ask(data_dir, server.url), server.url


def test_a_metric_that_fails_leaves_a_complete_run_complete(
    data_dir: Path, finished: tuple[Run, str], cli: Cli
) -> None:
    done, url = finished
    with pytest.raises(QilinError, match="Broken failed: RuntimeError: no figure"):
        ask(data_dir, url, metrics=f"rouge_l,{__name__}:Broken")
    assert done.directory.read_manifest().state == "complete"
    assert "left out" not in cli("leaderboard").out


def test_fresh_without_its_server_takes_nothing_away(data_dir: Path, finished: tuple[Run, str]) -> None:
    done, url = finished
    before = {path.name: path.read_bytes() for path in done.directory.path.iterdir()}
    with pytest.raises(QilinError, match="no server answers"):
        ask(data_dir, url, fresh=True)
    assert {path.name: path.read_bytes() for path in done.directory.path.iterdir()} == before


@pytest.mark.parametrize("name", ["scores.jsonl", "summary.json"])
def test_derived_files_are_made_again(data_dir: Path, finished: tuple[Run, str], name: str) -> None:
    done, url = finished
    (done.directory.path / name).write_text('{"half')
    assert ask(data_dir, url).summary == done.summary
    (done.directory.path / name).write_text('{"half')
    assert score_run(done.directory.path, {"rouge_l": {}}).summary.metrics["rouge_l"] == done.summary.metrics["rouge_l"]


def test_a_run_killed_while_it_scored_is_finished_without_its_server(data_dir: Path, finished: tuple[Run, str]) -> None:
    done, url = finished
    for name in ("summary.json", "scores.jsonl", "run.trec"):
        (done.directory.path / name).unlink()
    manifest = done.directory.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete"', '"incomplete"'))
    again = ask(data_dir, url)
    assert again.summary == done.summary
    assert again.manifest.state == "complete"


def test_where_the_answers_came_from_stays_on_record(data_dir: Path, finished: tuple[Run, str]) -> None:
    done, url = finished
    assert done.manifest.server["base_url"] == url
    path = done.directory.path / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"packages": {"openai": "0.1"}, "python": "3.0"}))
    again = ask(data_dir, url).manifest
    assert (again.server, again.packages, again.python) == (done.manifest.server, {"openai": "0.1"}, "3.0")
    assert all(sample.model == MODEL for sample in done.directory.read_samples()[1])


@pytest.mark.parametrize("content", ["[" * 100_000, '{"schema_version": 1}', '{"schema_version": 9}', "{", "[]"])
def test_a_damaged_manifest_is_one_line(finished: tuple[Run, str], cli: Cli, data_dir: Path, content: str) -> None:
    done, url = finished
    (done.directory.path / "manifest.json").write_text(content)
    run_again = ("run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", url)
    for command in (("show", done.directory.path), ("score", done.directory.path), ("leaderboard",), run_again):
        outcome = cli(*command)
        assert outcome.code in (1, 2), command
        assert outcome.err.count("\n") == 1
        assert "Traceback" not in outcome.err
