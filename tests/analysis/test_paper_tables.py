"""Every figure of Tables 2 and 5 to 9 and of Figure 3 on tables small enough to count by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.analysis.figures import FigureTable
from qilin_rag.analysis.page import as_csv, as_page, write_tables
from qilin_rag.analysis.paper_tables import analyse
from qilin_rag.analysis.transitions import reformulation
from qilin_rag.core.errors import UsageError
from qilin_rag.data.source import open_source
from tests.conftest import Cli, write_jsonl

NOON_S = 1_700_000_000  # true time
BEIJING_S = 8 * 3600


def result(
    note: int, position: int | None, actions: str = "", at_s: int | None = NOON_S, rec: bool = False
) -> dict[str, Any]:
    """A result; `actions` has the letters of click, like, collect, share (x) and comment (m)."""
    stamp = None if at_s is None else at_s * 1000 if rec else at_s + BEIJING_S
    flags = {"click": "c", "like": "l", "collect": "o", "share": "x", "comment": "m"}
    return {
        "note_idx": note,
        "position": position,
        **{name: int(letter in actions) for name, letter in flags.items()},
        ("request_timestamp" if rec else "search_timestamp"): stamp,
    }


def search(idx: int, query: str, results: list[dict[str, Any]], user: int | None = 1, **more: Any) -> dict[str, Any]:
    return {"search_idx": idx, "query": query, "user_idx": user, "search_result_details_with_idx": results, **more}


def recommendation(idx: int, results: list[dict[str, Any]], user: int = 1) -> dict[str, Any]:
    return {"request_idx": idx, "query": "titles", "user_idx": user, "rec_result_details_with_idx": results}


def at(start_s: int, results: list[tuple[int, int | None, str]], rec: bool = False) -> list[dict[str, Any]]:
    return [result(note, position, actions, NOON_S + start_s, rec) for note, position, actions in results]


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, FigureTable]:
    """User 1: S1, 1,800 s later S2 (same session), 1,801 s later R1 (another), 60 s later S3. User 2: R2, R3, dqa 9."""
    content = {
        "notes": [
            {"note_idx": 1, "title": "a", "content": "", "note_type": 1.0, "image_path": ["x", "y"]},
            {"note_idx": 2, "title": "b", "content": "", "note_type": 2.0, "image_path": []},
            {"note_idx": 3, "title": "c", "content": ""},
        ],
        "user_feat": [
            {"user_idx": 1, "gender": "female", "platform": "iOS", "age": "13-15", "location": "中国  安徽  淮北"},
            {"user_idx": 2, "gender": "male", "platform": "iOS", "age": "unknown", "location": ""},
        ],
        "search_train": [
            # note 1 is there twice; positions have a gap; the later page stands first
            search(
                1,
                "早餐",
                [*at(30, [(1, 12, "c")]), *at(0, [(1, 1, ""), (2, 3, "cl"), (3, 4, "")])],
                query_from_type=1.0,
            ),
            search(2, "早餐店", at(1800, [(2, 2, ""), (3, 3, "")]), query_from_type=None),
        ],
        "search_test": [
            search(3, "晚饭吃什么呢真的", at(1800 + 1801 + 60, [(1, 2, "com"), (9, 5, "")]), query_from_type=8.0),
            search(4, "无时间", [result(1, None, "cx", None)], user=None, query_from_type=2.0),
        ],
        "dqa": [
            search(9, "菜", at(120, [(2, 1, "c")]), 2, dqa_output="答案", query_from_type=2.0),
            search(8, "菜", at(130, [(2, 1, "")]), 2, dqa_output="-1", query_from_type=2.0),
        ],
        "recommendation_train": [recommendation(5, at(1800 + 1801, [(1, 1, "cl"), (2, 2, "")], rec=True))],
        "recommendation_test": [
            recommendation(6, at(0, [(2, 11, "c"), (1, 12, "")], rec=True), 2),
            recommendation(7, at(60, [(2, 1, ""), (1, 2, "c")], rec=True), 2),
        ],
    }
    for name, rows in content.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {table.key: table for table in analyse(open_source(str(tmp_path)))}


def row(table: FigureTable, name: str) -> dict[str, float | None]:
    return dict(zip([c.name for c in table.columns], table.values[table.rows.index(name)], strict=True))


def test_table2(tables: dict[str, FigureTable]) -> None:
    found = [values[0] for values in tables["table2"].values]
    assert found == [2, 3, 6, 1, 4 + 2 + 2 + 1 + 1 + 1 + 2 + 2 + 2, 2]


def test_demographics(tables: dict[str, FigureTable]) -> None:
    assert row(tables["users_gender"], "female") == {"share": 0.5, "count": 1}
    assert row(tables["users_age"], "under 16") == {"share": 0.5, "count": 1}
    assert row(tables["users_age"], "unknown") == {"share": 0.5, "count": 1}
    assert row(tables["users_location"], "中国") == {"share": 1, "count": 1}  # of those who have one
    assert tables["users_location"].printed("中国", "share") == 0.8432


def test_table5(tables: dict[str, FigureTable]) -> None:
    searches = row(tables["table5"], "S")
    assert searches == {
        "requests": 6,
        "browsing depth": (12 + 3 + 5 + 1 + 1) / 5,  # search 4 has no position
        "first click rank": (3 + 2 + 1) / 3,
        "clicks": 5 / 6,
        "CTR": 5 / 11,
        "like": 1 / 5,
        "collect": 1 / 5,
        "share": 1 / 5,
        "comment": 1 / 5,
    }
    answered = row(tables["table5"], "S+DQA")
    assert (answered["requests"], answered["clicks"], answered["CTR"], answered["like"]) == (1, 1, 1, 0)
    assert row(tables["table5"], "S-DQA")["requests"] == 5
    recommended = row(tables["table5"], "R")
    assert (recommended["browsing depth"], recommended["CTR"]) == ((2 + 12 + 2) / 3, 3 / 6)
    assert recommended["first click rank"] == (1 + 11 + 2) / 3


def test_figure3(tables: dict[str, FigureTable]) -> None:
    by_position = tables["figure3a"]
    assert row(by_position, "1") == {"search": 1 / 3, "recommendation": 1 / 2}
    assert row(by_position, ">10") == {"search": 1, "recommendation": 1 / 2}
    assert row(by_position, "7") == {"search": None, "recommendation": None}
    by_ordinal = tables["figure3b_pause"]
    # First in their sessions: search 1; recommendations 5 and 6. Second: searches 2 and 3, recommendation 7.
    assert row(by_ordinal, "1") == {"search": 2 / 4, "recommendation": 2 / 4}
    assert row(by_ordinal, "2") == {"search": 1 / 4, "recommendation": 1 / 2}
    assert row(by_ordinal, "3") == {"search": 1, "recommendation": None}
    assert row(by_ordinal, "4") == {"search": 0, "recommendation": None}
    assert all(value is None for values in tables["figure3b"].values for value in values)  # there is no session_idx
    assert row(tables["figure3c"], "1") == {"image-text": 1 / 3, "video": 2 / 3}
    assert row(tables["figure3c"], "4") == {"image-text": None, "video": None}  # a note without a type
    assert row(tables["figure3d"], "2") == {"image-text": 1 / 2, "video": 1 / 2}
    assert row(tables["figure3e"], "2") == {"image-text": 1, "video": 0}
    assert row(tables["figure3f"], ">10") == {"image-text": 0, "video": 1}


def test_table6_half_an_hour_is_one_session_and_a_second_more_is_two(tables: dict[str, FigureTable]) -> None:
    """Pairs: S1-S2 at 1,800 s; not S2-R1 at 1,801 s; R1-S3; R2-R3; R3-S9; S9-S8."""
    found = tables["table6"]
    assert row(found, "S-S") == {"share": 2 / 5, "clicks": 0, "CTR": 0, "pairs": 2}
    assert row(found, "R-S") == {"share": 2 / 5, "clicks": 1, "CTR": 2 / 3, "pairs": 2}
    assert row(found, "R-R") == {"share": 1 / 5, "clicks": 1, "CTR": 1 / 2, "pairs": 1}
    assert row(found, "S-R") == {"share": 0, "clicks": None, "CTR": None, "pairs": 0}
    assert any("1 requests without user or time" in note for note in found.notes)
    assert "S-R: clicks, CTR" in found.missing()


def test_table7(tables: dict[str, FigureTable]) -> None:
    assert row(tables["table7"], "<=3") == {"share": 5 / 6, "CTR": 4 / 9, "clicks": 4 / 5, "searches": 5}
    assert row(tables["table7"], "8") == {"share": 1 / 6, "CTR": 1 / 2, "clicks": 1, "searches": 1}
    assert row(tables["table7"], "10") == {"share": 0, "CTR": None, "clicks": None, "searches": 0}


def test_table8(tables: dict[str, FigureTable]) -> None:
    """早餐 to 早餐店; 菜 to 菜; search 3 comes 1,861 s after search 2."""
    assert row(tables["table8"], "Add") == {"share": 0.5, "pairs": 1}
    assert row(tables["table8"], "Repeat") == {"share": 0.5, "pairs": 1}
    assert row(tables["table8"], "Others") == {"share": 0, "pairs": 0}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("早餐店", "店餐早", "Repeat"),  # permuted
        ("早餐", "早早餐", "Repeat"),
        ("早餐", "早餐店", "Add"),
        ("早餐店", "店早", "Delete"),
        ("早餐", "早饭", "Change"),
        ("早餐", "晚饭", "Others"),
        ("", "晚饭", "Add"),
        ("晚饭", "", "Others"),
    ],
)
def test_reformulations(before: str, after: str, kind: str) -> None:
    assert reformulation(before, after) == kind


def test_table9_a_missing_source_is_no_source(tables: dict[str, FigureTable]) -> None:
    found = tables["table9"]
    assert row(found, "1 active search") == {"share": 1 / 5, "searches": 1}
    assert row(found, "2 auto-completion") == {"share": 3 / 5, "searches": 3}
    assert row(found, "8 others") == {"share": 1 / 5, "searches": 1}
    assert found.notes == ["Shares are of the 5 searches whose source is known; 1 have none."]


def test_files(tables: dict[str, FigureTable], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_tables(list(tables.values()), out, "<script>", ["table5"])
    lines = list(csv.DictReader((out / "table9.csv").open(encoding="utf-8")))
    assert lines[0] == {
        "row": "1 active search",
        "column": "share",
        "value": "0.2",
        "low": "",
        "high": "",
        "paper (Qilin)": "0.337",
        "difference": repr(0.2 - 0.337),
    }
    again = FigureTable(**json.loads((out / "table6.json").read_text(encoding="utf-8")))
    assert again == tables["table6"]
    page = (out / "analysis.md").read_text(encoding="utf-8")
    assert "<script>" not in page and "![User behaviour (Table 5)](table5.svg)" in page
    assert "| S\\-S | 40.00% (34.88%; +5.12%) |" in page
    assert "S\\-R: clicks, CTR" in page
    assert as_csv(tables["table6"]).count("\n") == 1 + 4 * 4
    assert as_page([], "x", []).startswith("# x\n")


def test_empty_tables_of_notes_and_users_are_like_none(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "search_train.jsonl", [search(1, "茶", at(NOON_S, [(1, 1, "")]))])
    expected = [table.values for table in analyse(open_source(str(tmp_path)))]
    for name in ("notes", "user_feat"):
        (tmp_path / f"{name}.jsonl").write_text("", encoding="utf-8")
    assert [table.values for table in analyse(open_source(str(tmp_path)))] == expected


def test_what_the_data_lacks_is_not_counted(tmp_path: Path) -> None:
    rows = [search(i, query, at(NOON_S + i, [(1, 1, "")])) for i, query in enumerate(["", "", "茶", "茶水"])]
    write_jsonl(tmp_path / "search_train.jsonl", rows)
    tables = {table.key: table for table in analyse(open_source(str(tmp_path)))}
    assert row(tables["table2"], "items") == row(tables["table2"], "images") == {"count": None}  # no table of notes
    assert "There is no table of users: users with a request are counted." in tables["table2"].notes
    assert row(tables["table7"], "<=3")["searches"] == 2
    assert "2 searches without a query are left out." in tables["table7"].notes
    assert row(tables["table8"], "Add") == {"share": 1, "pairs": 1}
    assert row(tables["table8"], "Repeat") == {"share": 0, "pairs": 0}
    assert "2 pairs in which a query is missing are left out." in tables["table8"].notes


def test_an_option_before_the_subcommand_is_not_passed_over(cli: Cli, tmp_path: Path) -> None:
    done = cli("analyze", "--data", "elsewhere", "answers", "--out", tmp_path / "out")
    assert done.code == 2 and "options of analyze answers stand behind it" in done.err


def test_no_requests_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"note_idx": 1, "title": "a", "content": ""}\n')
    with pytest.raises(UsageError, match="has none of the tables search_train"):
        analyse(open_source(str(tmp_path)))


def test_whose_the_papers_values_are_is_said_beside_other_data(cli: Cli, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "search_train.jsonl", [search(i, "茶", at(NOON_S + i, [(1, 1, "")])) for i in range(4)])
    done = cli("analyze", "--data", tmp_path, "--out", tmp_path / "out", "--no-plots")
    assert done.code == 0
    assert "not known to be Qilin" in done.out
    lead = (tmp_path / "out" / "analysis.md").read_text(encoding="utf-8").splitlines()[2]
    assert "not known to be Qilin (0 notes" in lead and "another data set" in lead
    as_json = json.loads(cli("analyze", "--data", tmp_path, "--out", tmp_path / "b", "--no-plots", "--json").out)
    assert as_json["paper"] == "Qilin" and "Qilin has 1,983,938" in as_json["why_not_qilin"]
    of_feedback = cli("analyze", "answers", "--data", tmp_path, "--out", tmp_path / "c", "--no-plots")
    assert "Qilin" not in of_feedback.out
