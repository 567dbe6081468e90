"""Labels of runs: from the label page, or anybody, to the table of measures, with nothing silently dropped."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from qilin_rag.core.labels import Label
from qilin_rag.viewer.label_export import export_labels
from qilin_rag.viewer.label_task import LabelTask, open_task
from tests.agreement.labelled import (
    BM25,
    NONE,
    ORACLE,
    Scores,
    document_of,
    one_line,
    preferring,
    rating,
    rouge_of_examples,
)
from tests.conftest import Cli, write_jsonl


@pytest.fixture
def rouge() -> Scores:
    return rouge_of_examples()


def test_a_measure_that_people_follow_is_named(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    rows = preferring(rouge, BM25, ORACLE)
    document = document_of(cli, write_jsonl(tmp_path / "labels.jsonl", rows), BM25, ORACLE)
    [aspect] = document["pairs"]["aspects"]
    assert (aspect["aspect"], aspect["n_judgements"], document["n_labels"]) == ("choice", len(rows), len(rows))
    assert aspect["verdict"][0].startswith("People agree most with rouge_l (")
    [best] = [row for row in aspect["rows"] if row["measure"] == "rouge_l"]
    assert best["accuracy"]["value"] == 1.0 and best["p_beyond_sentinels"] <= 0.05
    assert document["answers"] is None and document["orders"] == []


def test_random_labels_name_no_measure(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    random = Random(1)
    rows = [row | {"choice": random.choice(["A", "B", "tie"])} for row in preferring(rouge, BM25, ORACLE)]
    done = cli("agreement", "runs", BM25, ORACLE, "--labels", write_jsonl(tmp_path / "labels.jsonl", rows))
    assert done.code == 0 and "No measure agrees with people beyond the sentinels" in " ".join(done.out.split())
    assert "People agree most" not in done.out


def test_ten_labels_have_no_interval(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    labels = write_jsonl(tmp_path / "labels.jsonl", preferring(rouge, BM25, ORACLE)[:10])
    [aspect] = document_of(cli, labels, BM25, ORACLE)["pairs"]["aspects"]
    assert aspect["n_judgements"] == 10
    assert all(row["pearson"]["ci95"] is None for row in aspect["rows"])
    assert any("too few: 10 independent values, 20 needed" in line for line in aspect["verdict"])


def test_ratings_have_a_level_of_answers_and_one_of_runs(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    paths = (BM25, ORACLE, NONE)
    rows = rating(rouge, *paths) + rating(rouge, *paths, annotator="Bo", noise=1)
    document = document_of(cli, write_jsonl(tmp_path / "labels.jsonl", rows), *paths)
    [answers], [order] = document["answers"]["aspects"], document["orders"]
    scores = [rouge[row["run_a"]][row["question_id"]] for row in rows]
    labels = [row["quality.a"] for row in rows]
    [best] = [row for row in answers["rows"] if row["measure"] == "rouge_l"]
    for name, expected in (
        ("pearson", scipy_stats.pearsonr(scores, labels)),
        ("spearman", scipy_stats.spearmanr(scores, labels)),
        ("kendall", scipy_stats.kendalltau(scores, labels)),
    ):
        assert best[name]["value"] == pytest.approx(expected.statistic, abs=1e-9)
        assert best[name]["ci95"][0] < expected.statistic < best[name]["ci95"][1]
    assert best["accuracy"]["value"] is None
    both = {
        name: {(r["run_a"], r["question_id"]): r["quality.a"] for r in rows if r["annotator"] == name}
        for name in ("An", "Bo")
    }
    expected = scipy_stats.pearsonr(*([both[name][each] for each in both["An"]] for name in both)).statistic
    assert answers["ceiling"]["pearson"]["value"] == pytest.approx(expected, abs=1e-9)
    assert answers["verdict"][0].startswith("People agree most with rouge_l (")
    [of_runs] = [row for row in order["rows"] if row["measure"] == "rouge_l"]
    assert (order["n_runs"], of_runs["kendall"], of_runs["n_answers"]) == (3, 1.0, len(both["An"]))
    assert of_runs["soft_accuracy"] > 0.9
    taus = [
        scipy_stats.kendalltau(*zip(*pairs, strict=True)).statistic
        for question in rouge[BM25.name]
        if len(
            pairs := [
                (rouge[path.name][question], both["An"][path.name, question] + both["Bo"][path.name, question])
                for path in paths
                if (path.name, question) in both["An"]
            ]
        )
        > 1
    ]
    assert of_runs["within"]["value"] == pytest.approx(np.nanmean(taus), abs=1e-9)
    assert of_runs["n_questions"] == np.isfinite(taus).sum()
    assert len(document["pairs"]["aspects"][0]["rows"]) == len(answers["rows"])


def test_what_is_not_in_the_runs_is_counted(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    rows = preferring(rouge, BM25, ORACLE)
    rows[0]["question_id"] = "nowhere"
    rows[1]["query"] = "another query"
    rows[2]["run_b"] = "some-other-run"
    rows[3]["choice"] = None
    labels = write_jsonl(tmp_path / "labels.jsonl", rows)
    document = document_of(cli, labels, BM25, ORACLE, NONE)
    assert document["n_labels"] == len(rows) - 4
    remarks = " | ".join(document["remarks"])
    for part in ("not in the run", "another text", "some-other-run", "without a choice", f"{NONE.name}: no label"):
        assert part in remarks
    done = cli("agreement", "runs", NONE, "--labels", labels)
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1 and "no label is of the runs" in done.err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_export_of_the_label_page_is_read(suffix: str, rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    """Criteria are aspects of their own, beside the choice."""
    settings = {"name": "task", "runs": [str(BM25), str(ORACLE)], "criteria": {"quality": (1, 5)}}
    task = open_task(LabelTask.model_validate(settings))
    labels = []
    for name in ("An", "Bo"):
        for number, question in enumerate(task.items):
            sides = task.sides(question, name)
            values = [rouge[task.run_names[place]][question] for place in sides]
            choice = "A" if values[0] > values[1] else "B"
            ratings = {side: {"quality": round(1 + 4 * value)} for side, value in zip("AB", values, strict=True)}
            labels.append(
                Label(
                    id=f"{name}-{number:08}",
                    task_sha256=task.sha256,
                    question_id=question,
                    annotator=name,
                    sides=sides,
                    choice=choice,
                    ratings=ratings,
                    seconds=1,
                    at="",
                )
            )
    out = tmp_path / f"labels{suffix}"
    export_labels(task, labels, out)
    document = document_of(cli, out, BM25, ORACLE)
    assert document["annotators"] == ["An", "Bo"] and document["remarks"] == []
    choice, quality = document["pairs"]["aspects"]
    assert (choice["aspect"], quality["aspect"]) == ("choice", "quality")
    assert choice["n_judgements"] == quality["n_judgements"] == len(labels)
    assert choice["ceiling"]["accuracy"]["value"] == 1.0
    assert document["answers"]["aspects"][0]["n_judgements"] == 2 * len(labels)


def test_a_doubled_row_is_named(tmp_path: Path, cli: Cli, rouge: Scores) -> None:
    sheet, out = tmp_path / "sheet.jsonl", tmp_path / "labels.csv"
    assert cli("agreement", "export", BM25, ORACLE, "--out", sheet).code == 0
    row = json.loads(sheet.read_text(encoding="utf-8").splitlines()[0]) | {"choice": "tie", "annotator": "An"}
    twice = write_jsonl(tmp_path / "twice.jsonl", [row, row | {"choice": "A"}])
    line = one_line(cli, "import", twice, "--key", tmp_path / "sheet.key.json", "--out", out)
    assert "twice.jsonl, line 2: An labelled" in line and "twice.jsonl, line 1" in line
    rows = preferring(rouge, BM25, ORACLE)[:2]
    doubled = [*rows, rows[0] | {"run_a": rows[0]["run_b"], "run_b": rows[0]["run_a"]}]
    line = one_line(cli, "runs", BM25, ORACLE, "--labels", write_jsonl(tmp_path / "labels.jsonl", doubled))
    assert "line 3" in line and "line 1" in line


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"run_a": None}, "run_a is missing"),
        ({"question_id": None}, "question_id is missing"),
        ({"choice": "left"}, "'left'"),
        ({"run_b": None}, "no run_b"),
        ({"fluent.a": "x"}, "fluent.a must be a number"),
        ({"fluent.a": True}, "fluent.a must be a number"),
        ({"run_b": BM25.name}, "same run"),
    ],
)
def test_a_wrong_label_is_named(row: dict[str, Any], expected: str, tmp_path: Path, cli: Cli) -> None:
    good = {"question_id": "1", "run_a": BM25.name, "run_b": ORACLE.name, "choice": "A"}
    labels = write_jsonl(tmp_path / "labels.jsonl", [good | {"question_id": 2}, good | row])
    line = one_line(cli, "runs", BM25, ORACLE, "--labels", labels)
    assert "labels.jsonl, line 2: " in line and expected in line


def test_every_format_has_the_counts(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    rows = rating(rouge, BM25, ORACLE)[20:100]
    labels = write_jsonl(tmp_path / "labels.jsonl", rows)
    typed = ("agreement", "runs", BM25, ORACLE, "--labels", labels)
    markdown, latex = (cli(*typed, "--format", name).out for name in ("md", "latex"))
    for text in (markdown, latex):
        assert "80 labels by 1 annotator" in text and "quality of single answers: 80 answers, 80 ratings" in text
    records = list(csv.DictReader(io.StringIO(cli(*typed, "--format", "csv").out)))
    assert {record["of"] for record in records} == {"pairs", "answers", "runs"}
    assert all(record["within"] or record["within_reason"] for record in records if record["of"] == "runs")
    assert not any(record["kendall"] for record in records if record["of"] == "runs")
    assert "an order of runs needs 3" in markdown


def test_what_a_label_says_of_other_criteria_is_added(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    choices = preferring(rouge, BM25, ORACLE)
    ratings = [row | {"choice": None, "quality.a": 1, "quality.b": 3} for row in choices]
    files = [write_jsonl(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((choices, ratings))]
    done = cli("agreement", "runs", BM25, ORACLE, "--labels", files[0], "--labels", files[1], "--json")
    aspects = json.loads(done.out)["pairs"]["aspects"]
    assert [(each["aspect"], each["n_judgements"]) for each in aspects] == [
        ("choice", len(choices)),
        ("quality", len(choices)),
    ]


def test_a_crowd_has_a_ceiling(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
    """A hundred people with few labels each: each answer has two of them."""
    rows = [
        row | {"annotator": f"{number % 50}-{one}"}
        for one in range(2)
        for number, row in enumerate(rating(rouge, BM25, noise=1))
    ]
    [aspect] = document_of(cli, write_jsonl(tmp_path / "labels.jsonl", rows), BM25)["answers"]["aspects"]
    assert aspect["ceiling"]["n"] == 60 and aspect["ceiling"]["pearson"]["value"] == pytest.approx(1.0)
