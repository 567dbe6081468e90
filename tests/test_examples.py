"""The recorded runs: real answers of a real model, scored again to the same figures."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from qilin_rag.core.files import read_lines
from qilin_rag.core.judged_answers import AssignedAnswer
from qilin_rag.core.types import Judgement
from qilin_rag.data import load_dataset
from qilin_rag.data.dataset import hash_questions
from qilin_rag.judging.nugget_verdicts import read_support
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.prompts.judge import quote
from qilin_rag.reports.leaderboard import leaderboard
from tests.scored import score_run

EXAMPLES = Path(__file__).parents[1] / "runs" / "examples"
JUDGED = EXAMPLES / "judged"
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


def replies(run: Path, file_name: str) -> list[Judgement]:
    return list(read_lines(run / file_name, Judgement))


def nugget_run() -> Path:
    [run] = [path.parent for path in JUDGED.glob("*/nuggets.jsonl")]
    return run


def test_judged_runs_are_apart_from_the_four() -> None:
    """Their figures are of few questions and a weak judge: no leaderboard of the examples shows them."""
    assert len(RUNS) == 4 and JUDGED.name not in {run.name for run in RUNS}
    [table] = leaderboard(EXAMPLES)
    assert not [block.metric for block in table.blocks if "nugget" in block.metric]
    assert {"nugget_all", "claim_f1", "judge_refusal"} <= RunDirectory(nugget_run()).read_summary().metrics.keys()


def test_recorded_verdicts_are_read_to_the_same_nuggets() -> None:
    """Each kept assignment is what a reply says, and each reply about an answer of the run has one."""
    said = {line.qid: line for line in read_lines(nugget_run() / "nuggets.jsonl", AssignedAnswer)}
    read = set()
    for reply in replies(nugget_run(), "nugget_judgements.jsonl"):
        answer = said.get(reply.question_id)
        own = f"\n{quote(answer.answer_text)}\n\n## " if answer else "nobody's"
        if answer and own in reply.messages[-1]["content"]:
            supports = read_support(reply.answer, len(answer.nuggets))
            assert supports == [nugget.assignment for nugget in answer.nuggets]
            read.add(answer.qid)
    assert len(read) == len(said) == RunDirectory(nugget_run()).read_summary().metrics["nugget_all"].n


def test_the_page_of_results_has_the_figures_of_the_judged_run() -> None:
    values: dict[str, list[float]] = {}
    for score in RunDirectory(nugget_run()).read_control_scores():
        if score.metric == "nugget_strict_all" and score.value is not None:
            values.setdefault(score.control, []).append(score.value)
    means = {control: sum(of_control) / len(of_control) for control, of_control in values.items()}
    own = RunDirectory(nugget_run()).read_summary().metrics["nugget_strict_all"].value
    assert own is not None and means["reference itself"] > own > means["answer to another question"]
    page = (EXAMPLES.parents[1] / "docs" / "explanation" / "results.md").read_text(encoding="utf-8")
    for control, mean in means.items():
        assert re.search(rf"\| `{control}` \| [\d.]+ \| {mean:.4f} \|", page), control
    assert f"| {own:.4f} |" in page
