"""Blinded files: no run is named, and what people fill in comes back as labels of runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.agreement.blinded import blind, parse_criteria
from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.agreement.labelled import (
    BM25,
    NONE,
    ORACLE,
    Scores,
    document_of,
    one_line,
    rouge_of_examples,
)
from tests.conftest import Cli, write_jsonl


@pytest.fixture
def rouge() -> Scores:
    return rouge_of_examples()


def filled(sheet: Path, out: Path, fill: Callable[[dict[str, Any]], Mapping[str, object]]) -> Path:
    """A copy of a blinded CSV file in which somebody has filled in cells."""
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    with out.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, **fill(row)} for row in rows)
    return out


def test_two_annotators_label_a_blinded_file(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
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


def test_ratings_of_a_blinded_file(rouge: Scores, tmp_path: Path, cli: Cli) -> None:
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


def test_no_file_that_is_read_is_written_over(tmp_path: Path, cli: Cli) -> None:
    sheet, key = tmp_path / "sheet.csv", tmp_path / "sheet.key.json"
    assert cli("agreement", "export", BM25, "--out", sheet).code == 0
    before = sheet.read_bytes()
    assert "another file" in one_line(cli, "import", sheet, "--key", key, "--out", sheet)
    assert sheet.read_bytes() == before


def test_files_of_another_kind_are_named(tmp_path: Path, cli: Cli) -> None:
    sheet = tmp_path / "sheet.csv"
    assert cli("agreement", "export", BM25, "--out", sheet).code == 0
    assert "agreement import" in one_line(cli, "runs", BM25, "--labels", sheet)
    own = write_jsonl(tmp_path / "labels.jsonl", [{"question_id": "1", "sides": [0], "task_sha256": "0"}])
    assert "--export" in one_line(cli, "runs", BM25, "--labels", own)
    for text in ("", "{", '{"schema_version": 1, "seed": 0, "criteria": {}, "items": {}}'):
        key = tmp_path / "made.key.json"
        key.write_text(text, encoding="utf-8")
        assert "is no key" in one_line(cli, "import", sheet, "--key", key, "--out", tmp_path / "out.csv")
    filled(sheet, sheet, lambda row: {"quality.a": 7})
    wrong = one_line(cli, "import", sheet, "--key", sheet.with_suffix(".key.json"), "--out", tmp_path / "out.csv")
    assert "sheet.csv, row 2: quality.a is 7" in wrong
