"""Files of labels as spreadsheets and people make them: separators, names, and answers that have changed since."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.agreement.blinded import blind, import_labels, parse_criteria, write_blinded
from qilin_rag.agreement.label_rows import read_label_rows, write_rows
from qilin_rag.core.errors import UsageError
from qilin_rag.viewer.label_export import export_labels
from tests.agreement.labelled import BM25, ORACLE, document_of, one_line, preferring, rating, rouge_of_examples
from tests.conftest import Cli, write_jsonl
from tests.viewer.labelling import made_label, made_task

Rows = list[dict[str, Any]]
LABEL = {"question_id": "1", "annotator": "An", "run_a": "one", "run_b": "two", "choice": "A", "fluent.a": "4"}


def table(rows: Rows, delimiter: str = ",", line_end: str = "\n") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """A blinded file of four pairs, with its key."""
    write_blinded(blind([BM25, ORACLE], 4), tmp_path / "sheet.csv")
    return tmp_path / "sheet.csv"


def rows_of(sheet: Path) -> Rows:
    return list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))


def test_no_spreadsheet_changes_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    [expected] = read_label_rows([write_jsonl(tmp_path / "labels.jsonl", [LABEL])])
    for text in (
        table([LABEL]),
        "\ufeff" + table([LABEL], line_end="\r\n"),
        table([LABEL], delimiter=";"),
        table([LABEL], delimiter="\t"),
        table([{**LABEL, "": ""}]).replace("fluent.a,\n", "fluent.a,,\n").replace("4,\n", "4,,\n") + ",,,,,,,\n",
        table([{f" {name}": value for name, value in LABEL.items()}]),
        table([{**LABEL, "choice": "Ａ", "fluent.a": "４"}]),
    ):
        path.write_text(text, encoding="utf-8", newline="")
        [found] = read_label_rows([path])
        assert found._replace(place="") == expected._replace(place=""), text


def test_a_file_without_a_row_is_named(tmp_path: Path, sheet: Path) -> None:
    empty = tmp_path / "empty.csv"
    for text in ("", "\ufeff", table([LABEL]).splitlines()[0], "\n\n"):
        empty.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=r"empty\.csv: no label"):
            read_label_rows([empty])
        with pytest.raises(UsageError, match=r"empty\.csv: no row has a label"):
            import_labels([empty], sheet.with_suffix(".key.json"))
    empty.write_text(json.dumps([LABEL]), encoding="utf-8")
    with pytest.raises(UsageError, match="JSON array"):
        read_label_rows([empty])
    empty.write_bytes(b"PK\x03\x04 a workbook")
    with pytest.raises(UsageError, match="save its table as CSV"):
        read_label_rows([empty])


def test_a_sheet_is_read_by_excel_and_labels_by_programs(sheet: Path) -> None:
    """Excel takes CSV for UTF-8 if it begins with a byte order mark."""
    assert sheet.read_bytes().startswith(b"\xef\xbb\xbfid,")
    sheet.write_text(table([{**row, "choice": "A"} for row in rows_of(sheet)]), encoding="utf-8")
    found = import_labels([sheet], sheet.with_suffix(".key.json"))
    write_rows(sheet, found.columns, found.rows)
    assert sheet.read_bytes().startswith(b"question_id,")


@pytest.mark.parametrize("other", ["an", " An", "AN", "Ａｎ", "A\u200bn"])
def test_an_annotator_is_one_however_the_name_is_typed(other: str, tmp_path: Path) -> None:
    rows = [LABEL, LABEL | {"question_id": "2", "annotator": other}]
    assert {row.annotator for row in read_label_rows([write_jsonl(tmp_path / "labels.jsonl", rows)])} == {"An"}
    twice = write_jsonl(tmp_path / "twice.jsonl", [LABEL, LABEL | {"annotator": other}])
    with pytest.raises(UsageError, match=r"line 2: An labelled .* \(.*line 1\)"):
        read_label_rows([twice])


def test_a_row_without_a_name_is_of_its_file(tmp_path: Path, sheet: Path) -> None:
    paths = []
    for name, by in (("An", ""), ("bo", "\u200b"), ("cy", "an")):
        filled = [{**row, "choice": "tie", "annotator": by} for row in rows_of(sheet)]
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text(table(filled[:2] if name != "cy" else filled[2:]), encoding="utf-8")
    found = import_labels(paths, sheet.with_suffix(".key.json"))
    assert [row["annotator"] for row in found.rows] == ["An", "An", "bo", "bo", "An", "An"]


def test_a_formula_in_a_cell_stays_text(tmp_path: Path, sheet: Path) -> None:
    evil = "=HYPERLINK(1)"
    filled = [{**row, "choice": "tie", "annotator": evil, "comment": evil} for row in rows_of(sheet)]
    sheet.write_text(table(filled), encoding="utf-8")
    found = import_labels([sheet], sheet.with_suffix(".key.json"))
    assert {(row["annotator"], row["comment"]) for row in found.rows} == {(evil, evil)}


def test_a_criterion_that_looks_like_a_formula_comes_back(tmp_path: Path) -> None:
    task = made_task(criteria={"-clear": (1, 5), "a=b": (1, 5)})
    ratings: Any = {"A": {"-clear": 2, "a=b": 3}, "B": {"-clear": 4, "a=b": 5}}
    export_labels(task, [made_label(task, "1", "An", ratings=ratings)], tmp_path / "labels.csv")
    [row] = read_label_rows([tmp_path / "labels.csv"])
    assert row.ratings == {"-clear": {0: 2, 1: 4}, "a=b": {0: 3, 1: 5}}
    assert parse_criteria(["-clear=1-5", "a=b=1-5"]) == {"-clear": (1, 5), "a=b": (1, 5)}


@pytest.mark.parametrize(
    ("change", "n_changed"),
    [
        (lambda text: f"{text} or not", 1),
        (lambda text: text[:-1], 1),
        (lambda text: f" {text}\r\n", 0),
        (lambda text: "", 0),  # somebody who sends back ids and choices alone
    ],
)
def test_a_row_whose_answer_was_changed_is_left_out(
    change: Callable[[str], str], n_changed: int, tmp_path: Path, sheet: Path, cli: Cli
) -> None:
    rows = [{**row, "choice": "tie", "annotator": "An"} for row in rows_of(sheet)]
    rows[1]["answer_b"] = change(rows[1]["answer_b"])
    sheet.write_text(table(rows), encoding="utf-8")
    out = tmp_path / "labels.csv"
    done = cli("agreement", "import", sheet, "--key", sheet.with_suffix(".key.json"), "--out", out)
    assert done.code == 0 and len(rows_of(out)) == 4 - n_changed
    assert ("left out: 1 row whose answers are not those of the key" in done.err) == bool(n_changed)


def test_a_key_without_hashes_is_read(tmp_path: Path, sheet: Path) -> None:
    key = sheet.with_suffix(".key.json")
    document = json.loads(key.read_text(encoding="utf-8"))
    for item in document["items"].values():
        del item["answers_sha256"]
    key.write_text(json.dumps(document), encoding="utf-8")
    sheet.write_text(table([{**row, "choice": "A", "answer_a": "other"} for row in rows_of(sheet)]), encoding="utf-8")
    found = import_labels([sheet], key)
    assert len(found.rows) == 4 and {row["answers_sha256"] for row in found.rows} == {None}


def test_labels_of_answers_that_have_changed_are_left_out(tmp_path: Path, sheet: Path, cli: Cli) -> None:
    """The hash says so where the text of the question is as it was; a label without a hash is taken at its word."""
    sheet.write_text(table([{**row, "choice": "A"} for row in rows_of(sheet)]), encoding="utf-8")
    out = tmp_path / "labels.csv"
    assert cli("agreement", "import", sheet, "--key", sheet.with_suffix(".key.json"), "--out", out).code == 0
    rows = rows_of(out)
    rows[0]["answers_sha256"] = "0" * 64
    rows[1]["answers_sha256"] = ""
    out.write_text(table(rows), encoding="utf-8")
    document = document_of(cli, out, BM25, ORACLE)
    assert document["n_labels"] == 3
    assert document["remarks"] == ["left out: 1 label, of answers that have another text in the run"]
    out.write_text(table([row | {"answers_sha256": "0"} for row in rows]), encoding="utf-8")
    assert "of answers that have another text" in one_line(cli, "runs", BM25, ORACLE, "--labels", out)


def test_ratings_of_one_of_two_runs(tmp_path: Path, cli: Cli) -> None:
    """One annotator, one run: no pair, no order of runs, no ceiling; the other run is named."""
    labels = write_jsonl(tmp_path / "labels.jsonl", rating(rouge_of_examples(), BM25, noise=1))
    document = document_of(cli, labels, BM25, ORACLE)
    [aspect] = document["answers"]["aspects"]
    assert (document["pairs"], document["orders"], aspect["ceiling"]) == (None, [], None)
    assert document["remarks"] == [f"{ORACLE.name}: no label"]


def test_a_criterion_of_some_files_has_their_judgements(tmp_path: Path, cli: Cli) -> None:
    rouge = rouge_of_examples()
    choices = preferring(rouge, BM25, ORACLE)
    rated = [row | {"choice": None, "clear.a": 1, "clear.b": 2 + n % 3} for n, row in enumerate(choices[:25])]
    files = [write_jsonl(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((choices, rated))]
    done = cli("agreement", "runs", BM25, ORACLE, "--labels", files[0], "--labels", files[1], "--json")
    document = json.loads(done.out)
    judged = {each["aspect"]: each for each in document["pairs"]["aspects"]}
    assert {name: each["n_judgements"] for name, each in judged.items()} == {"choice": len(choices), "clear": 25}
    assert judged["choice"]["ceiling"] is None and judged["clear"]["ceiling"] is None
    assert any("no ceiling" in line for line in judged["choice"]["verdict"])
