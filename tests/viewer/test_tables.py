"""Comparison, ablation and rankings of the view are those of the commands; what is downloaded is what they write."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.compare import compare
from qilin_rag.viewer.site import site
from tests.conftest import Cli
from tests.viewer.serving import client_of


@pytest.fixture
def runs(data_dir: Path) -> list[RunDirectory]:
    """The default, its two neighbours in an ablation, and another retriever."""
    changed: tuple[dict[str, object], ...] = ({}, {"top_k": 1}, {"top_k": 2}, {"retriever": "oracle"})
    common = {"data": str(data_dir), "retriever": "bm25", "metrics": "rouge_l", "limit": 4}
    return [run(resolve_run({**common, **changes})).directory for changes in changed]


def test_the_comparison_is_that_of_the_command(runs: list[RunDirectory]) -> None:
    client = client_of(site([Path("runs")]))
    names = [runs[0].path.name, runs[3].path.name]
    shown = client.get("/api/compare", params={"run": names}).json()
    compared = compare(runs[0].path, runs[3].path)
    [section] = shown["sections"]
    assert [row[0] for row in section["rows"]] == [each.metric for each in compared.metrics]
    assert [float(row[3]) for row in section["rows"]] == pytest.approx(
        [each.difference for each in compared.metrics], abs=5e-5
    )
    moved = [each["question_id"] for each in shown["moved"]["A"] + shown["moved"]["B"]]
    assert moved == [each.question_id for each in [*compared.better_a, *compared.better_b]]
    assert client.get("/api/compare", params={"run": names[:1] * 2}).json()["sections"] == []
    nothing = client.get("/api/compare").json()
    assert nothing["sections"] == [] and nothing["runs"] == sorted(each.path.name for each in runs)
    assert client.get("/api/compare", params={"run": [names[0], "../runs"]}).status_code == 404
    other = client.get("/api/compare", params={"run": names, "metric": "bleu"})
    assert other.status_code == 400 and "bleu" in other.json()["error"]


def test_the_ablation_is_around_what_most_runs_have(runs: list[RunDirectory], cli: Cli) -> None:
    shown = client_of(site([Path("runs")])).get("/api/ablation").json()
    assert shown["metric"] == "rouge_l" and "why" not in shown
    [printed] = json.loads(cli("ablate", "--retrievers", "bm25", "--top-k", "5,1,2", "--saved", "--json").out)
    [system] = next(each["systems"] for each in printed["factors"] if each["factor"] == "top_k")
    by_level = {level["level"]: level["value"] for level in system["levels"]}
    table, *_ = [each for each in shown["sections"] if each["header"] and each["header"][0] == "top_k"]
    values = {row[0].strip(): float(row[1]) for row in table["rows"] if row[1] and not row[0].startswith("  spread")}
    assert values == pytest.approx(by_level, abs=5e-5) and len(values) == 3


def test_without_rankings_it_says_so(runs: list[RunDirectory]) -> None:
    client = client_of(site([Path("runs")]))
    assert "no ranking" in client.get("/api/rankings").json()["why"]
    assert client.get("/api/rankings?task=dqa").status_code == 404


def test_downloads_are_what_the_commands_write(runs: list[RunDirectory], cli: Cli) -> None:
    client = client_of(site([Path("runs")]))
    for kind in ("csv", "json", "md", "latex"):
        found = client.get("/api/download", params={"format": kind})
        printed = cli("leaderboard", "--format", kind).out
        assert found.text.strip() == printed.strip() and "attachment" in found.headers["content-disposition"]
    one = client.get("/api/download", params={"format": "csv", "run": runs[3].path.name}).text
    assert {row["run"] for row in csv.DictReader(io.StringIO(one))} == {runs[3].path.name}
    report = client.get("/api/download", params={"format": "html"})
    assert report.text.startswith("<!doctype html>") and report.headers["content-type"] == "application/octet-stream"
    assert client.get("/api/download?format=../x").status_code == 404
