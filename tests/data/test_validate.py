from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.data.source import open_source
from qilin_rag.data.text_files import Defect
from qilin_rag.data.validate import validate
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl
from tests.data.qilin import LAYOUTS, TABLES, Rows, changed, columns, details, write_arrow, write_parquet
from tests.data.qilin import write_jsonl as write_tables


def defects(folder: Path) -> list[str]:
    found: list[Defect] = []
    validate(open_source(str(folder)), found.append)
    return [str(defect).removeprefix(f"{folder}/") for defect in found]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sound_data_set_has_no_defect(tmp_path: Path, layout: str) -> None:
    assert defects(LAYOUTS[layout](tmp_path / "data")) == []


def with_clicks(**values: Any) -> Rows:
    return [details(1)[0] | values]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (changed("notes", 1, note_idx=3), "notes.arrow, row 1: note_idx 3 is already on row 0"),
        (changed("notes", 2, note_idx=None), "notes.arrow, row 2: note_idx is missing"),
        (changed("notes", 1, note_content=" "), "notes.arrow, row 1: note_content is empty, and so is the title"),
        (changed("user_feat", 2, user_idx=1), "user_feat.arrow, row 2: user_idx 1 is already on row 1"),
        (changed("dqa", 3, user_idx=7), "dqa.arrow, row 3: user_idx 7 is not in the table user_feat"),
        (changed("dqa", 1, search_idx=650), "dqa.arrow, row 2: search_idx 650 is already on row 1"),
        (changed("dqa", 1, query="\t"), "dqa.arrow, row 1: query is empty"),
        (changed("dqa", 1, query=None), "dqa.arrow, row 1: query is missing"),
        (
            changed("dqa", 1, dqa_output=" "),
            "dqa.arrow, row 1: dqa_output is empty; it must be -1 if no answer was shown",
        ),
        (changed("dqa", 1, dqa_output="-1"), "dqa.arrow, row 1: dqa_output is not an answer, but has feedback"),
        (changed("dqa", 1, is_like_clk=2.0), "dqa.arrow, row 1: is_like_clk must be -1, 0 or 1, not 2.0"),
        (
            changed("dqa", 1, ref_note_idx_list=[3, 70, 71, 70]),
            "dqa.arrow, row 1: ref_note_idx_list names notes that are not in the table notes (2): 70, 71",
        ),
        (
            changed("dqa", 1, ref_note_idx_list=[None]),
            "dqa.arrow, row 1: ref_note_idx_list holds a note_idx that is missing",
        ),
        (
            changed("dqa", 1, dpr_results=[[3.0, 1.0], [80.0, 0.5]]),
            "dqa.arrow, row 1: dpr_results names notes that are not in the table notes (1): 80",
        ),
        (
            changed("dqa", 1, dpr_results=[[3.0]]),
            "dqa.arrow, row 1: dpr_results [0] must be a pair of note_idx and score, not [3.0]",
        ),
        (
            changed("search_test", 0, search_result_details_with_idx=with_clicks(click=2)),
            "search_test.arrow, row 0: search_result_details_with_idx holds a click that is neither 0 nor 1",
        ),
        (
            changed("search_test", 0, search_result_details_with_idx=with_clicks(note_idx=90)),
            "search_test.arrow, row 0: "
            "search_result_details_with_idx names notes that are not in the table notes (1): 90",
        ),
        (columns(TABLES, "notes", ["note_content"]), "notes.arrow: column 'note_content' is missing"),
        (
            columns(TABLES, "recommendation_test", ["request_idx"]),
            "recommendation_test.arrow: column 'request_idx' is missing",
        ),
        (
            columns(TABLES, "search_test", []) | {"search_test": [{"search_idx": "one", "query": 3}]},
            "search_test.arrow, row 0: search_idx must be a whole number from 0, not 'one'",
        ),
    ],
)
def test_each_defect_is_named_with_table_row_and_column(tmp_path: Path, tables: dict[str, Rows], expected: str) -> None:
    found = defects(write_arrow(tmp_path / "data", tables))
    assert expected in found
    assert sum(defect.split(",")[0] == expected.split(",")[0] for defect in found) <= 2  # the other tables point here


def test_all_defects_of_a_file_are_found_not_the_first_only(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "data")
    broken = '{"note_idx": "x", "note_title": 1, "note_content": ""}\nnot json\n[]\n'
    (folder / "notes.jsonl").write_text(broken, encoding="utf-8")
    found = defects(folder)
    assert found[:4] == [
        "notes.jsonl, line 1: note_idx must be a whole number from 0, not 'x'",
        "notes.jsonl, line 1: note_title must be text, not 1",
        "notes.jsonl, line 2: not valid JSON: Expecting value (column 1)",
        "notes.jsonl, line 3: expected a JSON object",
    ]


def test_doubles_across_shards_name_both_places(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "data", changed("notes", 3, note_idx=3))
    assert (
        "notes/train-00001-of-00002.parquet, row 0: note_idx 3 is already on row 1 of train-00000-of-00002.parquet"
        in defects(folder)
    )


def test_the_command_prints_the_first_of_each_kind_and_all_as_json(tmp_path: Path, cli: Cli) -> None:
    write_jsonl(tmp_path / "notes.jsonl", NOTES)
    write_jsonl(tmp_path / "dqa.jsonl", [{**question, "query": " "} for question in QUESTIONS])
    done = cli("data", "validate", tmp_path, "--show", "2")
    assert done.code == 1
    assert done.out.splitlines()[-2:] == [
        f"{tmp_path}/dqa.jsonl: 1 more of query",
        "3 defects in 8 rows (notes 5, dqa 3)",
    ]
    assert json.loads(cli("data", "validate", tmp_path, "--json").out)["n_defects"] == 3
    assert cli("data", "validate", "sample").code == 0
    (tmp_path / "empty").mkdir()
    assert "; known: notes" in cli("data", "validate", "empty").err
