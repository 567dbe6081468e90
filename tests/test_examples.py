"""The recorded runs: real answers of a real model, scored again to the same figures."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from qilin_rag.data import load_dataset
from qilin_rag.data.dataset import hash_questions
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.reports.leaderboard import leaderboard
from tests.scored import score_run

EXAMPLES = Path(__file__).parents[1] / "runs" / "examples"
RUNS = sorted(path.parent for path in EXAMPLES.glob("*/manifest.json"))


def test_four_conditions_in_one_table() -> None:
    [table] = leaderboard(EXAMPLES)
    assert table.n_questions == 60
    *answers, retrieval = table.blocks
    assert [len(block.columns) for block in answers] == [len(retrieval.rows)] * len(answers) == [4] * len(answers)
    assert all("(recorded)" in row for block in answers for row in block.rows)


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.name)
def test_scored_again_they_give_the_same_figures(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    recorded = RunDirectory(run).read_summary()
    for name in ("scores.jsonl", "summary.json"):
        (copy / name).unlink()
    again = score_run(copy, {"rouge_l": {}, "retrieval": {}}).summary
    assert again.metrics.keys() == recorded.metrics.keys()
    for name, metric in again.metrics.items():
        known = recorded.metrics[name]
        assert metric.value == pytest.approx(known.value, abs=1e-12)
        assert metric.ci95 == pytest.approx(known.ci95, abs=1e-12)
        assert (metric.n, metric.signature) == (known.n, known.signature)
    assert again.counts == recorded.counts


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.name)
def test_they_are_of_the_sample_and_of_a_server_that_is_named(run: Path) -> None:
    manifest = RunDirectory(run).read_manifest()
    dataset = load_dataset("sample")
    questions = select_questions(dataset.questions)
    assert manifest.state == "complete"
    assert manifest.data["sha256"] == dataset.sha256  # else they stand in a table apart from the demo's
    assert manifest.question_set_sha256 == hash_questions(questions)
    assert manifest.server["engine"] == "vLLM"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", manifest.server["version"])


def test_they_hold_no_place_of_the_machine_they_were_made_on() -> None:
    for path in EXAMPLES.rglob("*"):
        if path.is_file():
            assert not re.search(r'"(/|~|[A-Z]:\\)\w', path.read_text(encoding="utf-8")), path
