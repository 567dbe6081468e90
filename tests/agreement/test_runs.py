"""Labels of runs: from a blinded file or the label page to the table of measures, with nothing silently dropped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from qilin_rag.agreement.blinded import blind, parse_criteria
from qilin_rag.core.errors import UsageError
from qilin_rag.core.labels import Label
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.measured import read_run
from qilin_rag.viewer.label_export import export_labels
from qilin_rag.viewer.label_task import LabelTask, open_task
from tests.conftest import Cli, write_jsonl

EXAMPLES = Path(__file__).parents[2] / "runs" / "examples"
BM25, ORACLE, NONE = (next(EXAMPLES.glob(f"sample-{name}-*")) for name in ("bm25", "oracle", "none"))
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rouge() -> dict[str, dict[str, float]]:
    """The rouge_l of each answer, by run and question."""
    runs = [read_run(path) for path in (BM25, ORACLE, NONE)]
    return {run.name: dict(zip(run.questions, run.values["rouge_l"].tolist(), strict=True)) for run in runs}


def preferring(rouge: Mapping[str, Mapping[str, float]], *paths: Path) -> Rows:
    """Labels by somebody who prefers the answer with the higher rouge_l; on each side in turn."""
    rows = []
    for one, other in combinations([path.name for path in paths], 2):
        for place, question in enumerate(rouge[one]):
            a, b = (one, other) if place % 2 else (other, one)
            gain = rouge[b][question] - rouge[a][question]
            if not np.isnan(gain):
                choice = "B" if gain > 0 else "A" if gain < 0 else ("tie", "both_bad")[place % 2]
                rows.append({"question_id": question, "annotator": "An", "run_a": a, "run_b": b, "choice": choice})
    return rows


def rating(rouge: Mapping[str, Mapping[str, float]], *paths: Path, annotator: str = "An", noise: float = 0) -> Rows:
    """Ratings from 1 to 5 by somebody who looks at rouge_l, more or less."""
    random = Random(annotator)
    return [
        {
            "question_id": question,
            "annotator": annotator,
            "run_a": path.name,
            "quality.a": min(5, max(1, round(1 + 12 * value + random.gauss(0, noise)))),
        }
        for path in paths
        for question, value in rouge[path.name].items()
        if not np.isnan(value)
    ]


def document_of(cli: Cli, labels: Path, *runs: Path, **options: object) -> dict[str, Any]:
    done = cli("agreement", "runs", *runs, "--labels", labels, "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def test_a_measure_that_people_follow_is_named(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
    rows = preferring(rouge, BM25, ORACLE)
    document = document_of(cli, write_jsonl(tmp_path / "labels.jsonl", rows), BM25, ORACLE)
    [aspect] = document["pairs"]["aspects"]
    assert (aspect["aspect"], aspect["n_judgements"], document["n_labels"]) == ("choice", len(rows), len(rows))
    assert aspect["verdict"][0].startswith("People agree most with rouge_l (")
    [best] = [row for row in aspect["rows"] if row["measure"] == "rouge_l"]
    assert best["accuracy"]["value"] == 1.0 and best["p_beyond_sentinels"] <= 0.05
    assert document["answers"] is None and document["orders"] == []


def test_random_labels_name_no_measure(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
    random = Random(1)
    rows = [row | {"choice": random.choice(["A", "B", "tie"])} for row in preferring(rouge, BM25, ORACLE)]
    done = cli("agreement", "runs", BM25, ORACLE, "--labels", write_jsonl(tmp_path / "labels.jsonl", rows))
    assert done.code == 0 and "No measure agrees with people beyond the sentinels" in " ".join(done.out.split())
    assert "People agree most" not in done.out


def test_ten_labels_have_no_interval(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
    labels = write_jsonl(tmp_path / "labels.jsonl", preferring(rouge, BM25, ORACLE)[:10])
    [aspect] = document_of(cli, labels, BM25, ORACLE)["pairs"]["aspects"]
    assert aspect["n_judgements"] == 10
    assert all(row["pearson"]["ci95"] is None for row in aspect["rows"])
    assert any("too few: 10 independent values, 20 needed" in line for line in aspect["verdict"])


def test_ratings_have_a_level_of_answers_and_one_of_runs(
    rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli
) -> None:
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


def test_what_is_not_in_the_runs_is_counted(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
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
def test_the_export_of_the_label_page_is_read(
    suffix: str, rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli
) -> None:
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


def filled(sheet: Path, out: Path, fill: Callable[[dict[str, Any]], Mapping[str, object]]) -> Path:
    """A copy of a blinded CSV file in which somebody has filled in cells."""
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8"))))
    with out.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, **fill(row)} for row in rows)
    return out


def test_two_annotators_label_a_blinded_file(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
    sheet, labels = tmp_path / "sheet.csv", tmp_path / "labels.csv"
    exported = ("agreement", "export", BM25, ORACLE, "--questions", 30, "--seed", 3, "--out")
    done = cli(*exported, sheet)
    assert done.code == 0, done.err
    again = cli(*exported, tmp_path / "again.csv")
    assert again.code == 0 and (tmp_path / "again.csv").read_bytes() == sheet.read_bytes()
    text = sheet.read_text(encoding="utf-8")
    for name in ("bm25", "oracle", "concise", "qwen2.5", BM25.name[-8:], ORACLE.name[-8:]):
        assert name not in text, name
    key = json.loads(sheet.with_suffix(".key.json").read_text(encoding="utf-8"))
    assert {item["runs"][0] for item in key["items"].values()} == {BM25.name, ORACLE.name}

    def by_rouge(row: dict[str, Any]) -> dict[str, object]:
        item = key["items"][row["id"]]
        a, b = (rouge[name][item["question_id"]] for name in item["runs"])
        return {"choice": "A" if a > b else "b "}

    an = filled(sheet, tmp_path / "An.csv", by_rouge)
    bo = filled(sheet, tmp_path / "b.csv", lambda row: {"annotator": "Bo", **by_rouge(row), "comment": "=1+1"})
    done = cli("agreement", "import", an, bo, "--key", sheet.with_suffix(".key.json"), "--out", labels)
    assert done.code == 0 and "60 labels by 2 annotators" in done.out
    document = document_of(cli, labels, BM25, ORACLE)
    [aspect] = document["pairs"]["aspects"]
    assert document["annotators"] == ["An", "Bo"] and aspect["n_judgements"] == 60
    assert aspect["ceiling"]["n"] == 30 and aspect["ceiling"]["accuracy"]["value"] == 1.0
    [best] = [row for row in aspect["rows"] if row["measure"] == "rouge_l"]
    assert best["accuracy"]["value"] == 1.0


def test_ratings_of_a_blinded_file(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
    sheet, labels = tmp_path / "sheet.jsonl", tmp_path / "labels.jsonl"
    assert cli("agreement", "export", BM25, "--criterion", "fluent=0-10", "--out", sheet).code == 0
    key = json.loads((tmp_path / "sheet.key.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in sheet.read_text(encoding="utf-8").splitlines()]
    for row in rows[:-1]:
        row["fluent.a"] = round(10 * rouge[BM25.name][key["items"][row["id"]]["question_id"]])
    done = cli("agreement", "import", write_jsonl(sheet, rows), "--key", tmp_path / "sheet.key.json", "--out", labels)
    assert (done.code, "1 row without a label" in done.err) == (0, True)
    document = document_of(cli, labels, BM25)
    [aspect] = document["answers"]["aspects"]
    assert (document["pairs"], document["annotators"]) == (None, ["sheet"])
    assert (aspect["aspect"], aspect["n_judgements"], document["orders"]) == ("fluent", 59, [])
    assert aspect["verdict"][0].startswith("People agree most with rouge_l (")


def test_answers_are_shuffled_and_each_run_is_on_either_side() -> None:
    blinded = blind([BM25, ORACLE, NONE], 20, 1)
    items = list(blinded.key.items.values())
    names = {path.name for path in (BM25, ORACLE, NONE)}
    assert {item.runs[0] for item in items} == {item.runs[1] for item in items} == names
    questions = [item.question_id for item in items]
    assert len(set(questions)) == 20 and questions != sorted(questions, key=questions.index)
    assert blind([BM25, ORACLE, NONE], 20, 2).rows != blinded.rows
    answers = {run.name: RunDirectory(run).read_samples()[0] for run in (BM25, ORACLE, NONE)}
    for row, item in zip(blinded.rows, items, strict=True):
        shown = [answers[name][item.question_id].answer for name in item.runs]
        assert [row["answer_a"], row["answer_b"]] == shown
    alone = blind([BM25, ORACLE], 20, 1, one_by_one=True)
    assert alone.key.n_sides == 1 and len(alone.rows) == 40 and "quality.a" in alone.columns


def one_line(cli: Cli, *arguments: object) -> str:
    done = cli("agreement", *arguments)
    assert (done.code, done.out) == (2, ""), (done.out, done.err)
    [line] = done.err.strip().splitlines()
    return line


def test_wrong_options_are_one_line(tmp_path: Path, cli: Cli) -> None:
    sheet = tmp_path / "sheet.csv"
    assert "sheet.txt" in one_line(cli, "export", BM25, "--out", tmp_path / "sheet.txt")
    assert "twice" in one_line(cli, "export", BM25, BM25, "--out", sheet)
    assert "twice" in one_line(cli, "runs", BM25, BM25, "--labels", write_jsonl(tmp_path / "any.jsonl", []))
    for criterion in ("fluent", "fluent=5-1", "fluent=1-500", "=1-5"):
        assert criterion in one_line(cli, "export", BM25, "--criterion", criterion, "--out", sheet)
    assert cli("agreement", "export", BM25, "--questions", 2, "--out", sheet).code == 0
    assert "sheet.key.json exists" in one_line(cli, "export", BM25, "--out", sheet)
    assert "absent" in one_line(cli, "import", sheet, "--key", tmp_path / "absent", "--out", tmp_path / "out.csv")
    no_label = one_line(cli, "import", sheet, "--key", tmp_path / "sheet.key.json", "--out", tmp_path / "out.csv")
    assert "no row has a label" in no_label
    with pytest.raises(UsageError, match="twice"):
        parse_criteria(["fluent=1-5", "fluent=1-3"])


WRONG: Iterable[tuple[dict[str, Any], str]] = [
    ({"id": "0-0"}, "id '0-0'"),
    ({"fluent.a": 6}, "fluent.a is 6, not a whole number from 1 to 5"),
    ({"fluent.b": 2.5}, "fluent.b is 2.5"),
    ({"fluent.a": "good"}, "fluent.a must be a number, not 'good'"),
    ({"choice": "C"}, "'C'"),
    ({"clear.a": 1}, "'clear' is no criterion"),
]


@pytest.mark.parametrize(("change", "expected"), WRONG)
def test_a_wrong_row_is_named(change: dict[str, Any], expected: str, tmp_path: Path, cli: Cli) -> None:
    sheet, key, out = tmp_path / "sheet.jsonl", tmp_path / "sheet.key.json", tmp_path / "labels.csv"
    assert cli("agreement", "export", BM25, ORACLE, "--criterion", "fluent=1-5", "--out", sheet).code == 0
    rows = [json.loads(line) | {"choice": "tie"} for line in sheet.read_text(encoding="utf-8").splitlines()]
    line = one_line(cli, "import", write_jsonl(sheet, [rows[0], rows[1] | change]), "--key", key, "--out", out)
    assert "sheet.jsonl, line 2: " in line and expected in line
    assert not out.exists()


def test_a_doubled_row_is_named(tmp_path: Path, cli: Cli, rouge: dict[str, dict[str, float]]) -> None:
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


def test_every_format_has_the_counts(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
    rows = rating(rouge, BM25, ORACLE)[20:100]
    labels = write_jsonl(tmp_path / "labels.jsonl", rows)
    typed = ("agreement", "runs", BM25, ORACLE, "--labels", labels)
    markdown, latex = (cli(*typed, "--format", name).out for name in ("md", "latex"))
    for text in (markdown, latex):
        assert "80 labels by 1 annotator" in text and "quality of single answers: 80 answers, 80 ratings" in text
    records = list(csv.DictReader(io.StringIO(cli(*typed, "--format", "csv").out)))
    assert {record["of"] for record in records} == {"pairs", "answers", "runs"}
    assert "an order of runs needs 3" in markdown


def test_what_a_label_says_of_other_criteria_is_added(
    rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli
) -> None:
    choices = preferring(rouge, BM25, ORACLE)
    ratings = [row | {"choice": None, "quality.a": 1, "quality.b": 3} for row in choices]
    files = [write_jsonl(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((choices, ratings))]
    done = cli("agreement", "runs", BM25, ORACLE, "--labels", files[0], "--labels", files[1], "--json")
    aspects = json.loads(done.out)["pairs"]["aspects"]
    assert [(each["aspect"], each["n_judgements"]) for each in aspects] == [
        ("choice", len(choices)),
        ("quality", len(choices)),
    ]


def test_a_crowd_has_a_ceiling(rouge: dict[str, dict[str, float]], tmp_path: Path, cli: Cli) -> None:
    """A hundred people with few labels each: each answer has two of them."""
    rows = [
        row | {"annotator": f"{number % 50}-{one}"}
        for one in range(2)
        for number, row in enumerate(rating(rouge, BM25, noise=1))
    ]
    [aspect] = document_of(cli, write_jsonl(tmp_path / "labels.jsonl", rows), BM25)["answers"]["aspects"]
    assert aspect["ceiling"]["n"] == 60 and aspect["ceiling"]["pearson"]["value"] == pytest.approx(1.0)


def test_no_file_that_is_read_is_written_over(tmp_path: Path, cli: Cli) -> None:
    sheet, key = tmp_path / "sheet.csv", tmp_path / "sheet.key.json"
    assert cli("agreement", "export", BM25, "--out", sheet).code == 0
    before = sheet.read_bytes()
    assert "another file" in one_line(cli, "import", sheet, "--key", key, "--out", sheet)
    assert sheet.read_bytes() == before
