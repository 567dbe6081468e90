"""Noise curves: the factor `noise` of an ablation, and the share of wrong notes that the pages draw."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Question
from qilin_rag.pipeline.sweep import read_sweep
from qilin_rag.reports.contents import collect
from qilin_rag.reports.html import write_report
from qilin_rag.reports.noise import noise_level, share_of_wrong, without_level
from tests.conftest import Cli
from tests.reports.visits import WIDE, Visit


def test_the_share_is_the_mean_over_questions_that_have_notes() -> None:
    questions = {
        name: Question(id=name, query=name, references=["a"], reference_notes=[1, 2]) for name in ("a", "b", "c")
    }
    assert share_of_wrong({"a": [1, 5], "b": [5, 6, 7, 2], "c": []}, questions) == pytest.approx((0.5 + 0.75) / 2)
    assert share_of_wrong({"a": [], "b": [], "c": []}, questions) is None
    assert share_of_wrong({"a": [1], "other": [9]}, questions) == 0


@pytest.mark.parametrize(
    ("identity", "level"),
    [
        ({"retriever": {"component": "retriever/mixed", "k_wrong": 3}}, 3),
        ({"retriever": {"component": "retriever/bm25", "k_wrong": 3}}, None),
        ({"retriever": {"component": "retriever/mixed", "k_wrong": "3"}}, None),  # a stranger's
        ({"retriever": "mixed"}, None),
        ({}, None),
    ],
)
def test_the_level_of_a_run(identity: dict[str, Any], level: int | None) -> None:
    assert noise_level(identity) == level


def test_a_label_without_its_level() -> None:
    assert without_level("mixed k_right=1 k_wrong=14 wrong=(bm25)") == "mixed k_right=1 wrong=(bm25)"
    assert without_level("mixed k_right=1") == "mixed k_right=1"


@pytest.mark.parametrize(
    ("axes", "overrides", "expected"),
    [
        ({"noise": [0, 1, 4]}, [], [(0, 5), (1, 5), (4, 5)]),  # of five notes
        ({"noise": [0, 4]}, ["retriever.k_right=1"], [(0, 5), (4, 5)]),  # beside one right note
        ({"noise": [9, 0]}, ["retriever.k_right=1"], [(9, 10), (0, 10)]),
        ({"noise": [0, 4], "top_k": [8]}, [], [(0, 8), (4, 8)]),
        ({"noise": [0, 4]}, ["top_k=8"], [(0, 8), (4, 8)]),
        ({"noise": [0, 2], "top_k": [3, 4]}, [], [(0, 3), (2, 3), (0, 4)]),  # one factor at a time
    ],
)
def test_the_runs_of_a_noise_curve(axes: dict[str, list[int]], overrides: list[str], expected: list[Any]) -> None:
    configs = read_sweep(None, {"retrievers": ["mixed"], **axes}, {}, overrides, one_factor=True)
    made = [(config.retriever.k_wrong, config.top_k) for config in configs]
    assert sorted(made) == sorted(expected) and made[0] == expected[0]


def test_other_retrievers_have_no_noise() -> None:
    configs = read_sweep(None, {"retrievers": ["bm25", "mixed:bm25"], "noise": [0, 2]}, {}, one_factor=True)
    assert [config.retriever.named().name for config in configs] == ["bm25", "mixed", "mixed"]
    without: list[dict[str, list[Any]]] = [{"noise": [0, 1]}, {"noise": [0, 1], "retrievers": ["bm25", "none"]}]
    for wrong in without:
        with pytest.raises(UsageError, match="noise is a factor of the retriever mixed"):
            read_sweep(None, wrong, {})
    for levels in ([0, "x"], [-1], [0.5]):
        with pytest.raises(UsageError, match="noise must list numbers"):
            read_sweep(None, {"retrievers": ["mixed"], "noise": levels}, {})


def test_ablate_compares_levels_of_noise(data_dir: Path, cli: Cli) -> None:
    command = ("ablate", "--retrievers", "mixed,bm25", "--noise", "0,2,1", "--top-k", "3", "--data", data_dir)
    found = cli(*command, "--json")
    assert found.code == 0, found.err
    [report] = json.loads(found.out)
    [factor] = report["factors"]
    assert (factor["factor"], factor["default"]) == ("noise", "0")
    [system] = factor["systems"]
    assert system["retriever"] == "mixed"
    levels = [(level["level"], level["noise"]) for level in system["levels"]]
    # One right note of 1, and 1 wrong; question 2 has two right ones, of which 2 wrong notes leave one
    assert levels == [("0", 0.0), ("1", pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)), ("2", pytest.approx(2 / 3))]
    table = cli(*command, "-q")
    assert "number of wrong notes (share of all)" in table.out and "2 (0.67)" in table.out
    rows = list(csv.DictReader(io.StringIO(cli(*command, "--format", "csv", "-q").out)))
    assert [row["noise"][:4] for row in rows] == ["0.0", "0.44", "0.66"]
    saved = cli("ablate", "--noise", "2,0", "--top-k", "3", "--saved", "--json")
    assert [level["level"] for level in json.loads(saved.out)[0]["factors"][0]["systems"][0]["levels"]] == ["2", "0"]
    planned = cli("ablate", "--noise", "0,1", "--data", data_dir, "--dry-run", "--json")
    assert ["mixed" in each["label"] for each in json.loads(planned.out)] == [True, True]
    refused = cli("ablate", "--noise", "0,some", "--data", data_dir)
    assert (refused.code, "--noise: 'some' is not a number" in refused.err) == (2, True)


def test_saved_runs_of_other_factors_are_compared_as_before(data_dir: Path, cli: Cli) -> None:
    for level in ("0", "1"):
        command = ("run", "--data", data_dir, "--retriever", "mixed", "--set", f"retriever.k_wrong={level}", "-q")
        for prompt in ("default", "concise"):
            assert cli(*command, "--prompt", prompt).code == 0
    found = cli("ablate", "--prompts", "default,concise", "--saved", "--json")
    [report] = json.loads(found.out)
    assert [factor["factor"] for factor in report["factors"]] == ["prompt"]
    assert {system["retriever"] for system in report["factors"][0]["systems"]} == {"mixed k_wrong=0", "mixed k_wrong=1"}


def runs_with_noise(data_dir: Path, cli: Cli) -> list[Path]:
    for wrong in ("random", "bm25"):
        done = cli("ablate", "--retrievers", f"mixed:{wrong}", "--noise", "0,1,2", "--data", data_dir, "-q")
        assert done.code == 0, done.err
    assert cli("run", "--data", data_dir, "--retriever", "bm25", "-q").code == 0
    return sorted(Path("runs").iterdir())


def test_the_index_of_a_page_has_the_places_of_mixed_runs(data_dir: Path, cli: Cli) -> None:
    runs = runs_with_noise(data_dir, cli)
    [table] = collect(runs).overview["tables"]
    places = [run.get("noise") for run in table["runs"]]
    assert sum(place is None for place in places) == 1
    assert {place["line"] for place in places if place} == {"mixed", "mixed wrong=(bm25)"}
    assert min(place["share"] for place in places if place) == 0
    assert cli("run", "--data", data_dir, "--retriever", "mixed", "--prompt", "concise", "-q").code == 0
    [table] = collect(sorted(Path("runs").iterdir())).overview["tables"]
    lines = {run["noise"]["line"] for run in table["runs"] if "noise" in run}
    assert lines == {"mixed, prompt default", "mixed, prompt concise", "mixed wrong=(bm25), prompt default"}


@pytest.mark.browser
@pytest.mark.parametrize("with_noise", [True, False])
def test_the_report_draws_a_line_for_each_curve(with_noise: bool, data_dir: Path, cli: Cli, chromium: Any) -> None:
    if with_noise:
        runs_with_noise(data_dir, cli)
    else:
        assert cli("run", "--data", data_dir, "--retriever", "mixed", "-q").code == 0
    write_report(collect(sorted(Path("runs").iterdir())), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), WIDE)
    assert visit.page.locator("#noise-part").is_visible() == with_noise
    assert visit.page.locator("#noise polyline").count() == 2 * with_noise
    assert visit.page.locator("#noise circle").count() == 6 * with_noise
    if with_noise:
        title = visit.page.locator("#noise circle").first.locator("xpath=../*[local-name()='title']")
        assert title.text_content().startswith("extractive · mixed") and "0%: " in title.text_content()
        first = visit.page.locator("#noise polyline").first.get_attribute("points").split()
        xs = [float(point.split(",")[0]) for point in first]
        assert xs == sorted(xs) and len(set(xs)) == 3
    assert visit.heard == []
    visit.page.close()
