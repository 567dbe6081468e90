"""Data as strangers have it: read where it can only mean one thing, else refused in a line that says what to do."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qilin_rag.core.text_encodings import likely_encoding
from qilin_rag.data import load_dataset
from qilin_rag.data.note_ids import text_id_number
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl

SIMPLE = "冷萃咖啡怎么做，用粗研磨咖啡粉80克，加冷水800毫升，冷藏12小时后过滤。"
TRADITIONAL = "冷萃咖啡怎麼做，用粗研磨咖啡粉80克，加冷水800毫升，冷藏12小時後過濾。"
ASKED: list[dict[str, Any]] = list(QUESTIONS)


@pytest.mark.parametrize(
    ("encoding", "text", "name"),
    [
        ("gbk", SIMPLE, "GB18030"),
        ("gb18030", SIMPLE + "㐀𠀀", "GB18030"),
        ("gbk", TRADITIONAL, "GB18030"),
        ("big5", TRADITIONAL, "Big5"),
        ("utf-16", SIMPLE, "UTF-16"),
        ("utf-16-le", '{"a": "咖啡"}', "UTF-16LE"),
        ("utf-16-be", '{"a": "咖啡"}', "UTF-16BE"),
        ("utf-32", SIMPLE, "UTF-32"),
        ("latin-1", "café crème brûlée", None),
        ("shift_jis", "日本語のテキストです。コーヒーの淹れ方", None),
    ],
)
def test_the_likely_encoding_is_named(data_dir: Path, cli: Cli, encoding: str, text: str, name: str | None) -> None:
    assert likely_encoding(text.encode(encoding)) == name
    line = json.dumps({**NOTES[0], "title": "a", "content": text}, ensure_ascii=False) + "\n"
    table = f"note_idx,title,content\n1,a,{text}\n"
    for file, content in (("notes.jsonl", line), ("notes.csv", table)):
        (data_dir / "notes.jsonl").unlink(missing_ok=True)
        (data_dir / file).write_bytes(content.encode(encoding))
        done = cli("run", "--data", data_dir)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"{file}" in done.err and "not UTF-8 text" in done.err
        assert (f"it seems to be {name}" if name else "save it as UTF-8") in done.err
        assert cli("data", "validate", data_dir).code == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.csv", "note_idx;title;content\n1;a;b\n", "separated by semicolons"),
        ("notes.csv", "note_idx\ttitle\tcontent\n1\ta\tb\n", "separated by tabs"),
        ("notes.csv", "id,text\n1,a\n", "column 'note_idx' is missing; found instead: 'id', 'text'"),
        ("notes.csv", "note_idx,title,title,content\n1,a,b,c\n", "column 'title' occurs twice"),
        ("notes.csv", "", "column 'note_idx' is missing; it has none at all"),
        ("notes.jsonl", '{"id": 1, "text": "a"}\n', "line 1: key 'note_idx' is missing; found instead: 'id', 'text'"),
        ("notes.jsonl", "{}\n", "key 'note_idx' is missing; it has none at all"),
        ("notes.jsonl", '{"query": "a"}\n{"search_idx": 1}\n', "key 'note_idx' is missing; found instead: 'query'"),
        ("notes.json", "[]", "there is notes.json: write it as notes.jsonl, one JSON object a line"),
        ("notes.xlsx", "", "there is notes.xlsx: save it as notes.csv, in UTF-8"),
        ("Notes.jsonl", "", "there is Notes.jsonl: rename it to notes.jsonl"),
        ("note.jsonl", "", "there is note.jsonl: rename it to notes.jsonl"),
        ("notes.jsonl.gz", "", "there is notes.jsonl.gz: unpack it"),
        ("notes.tsv", "", "there is notes.tsv: save it as notes.csv"),
        ("below/notes.jsonl", "", "it is in the folder"),
    ],
)
def test_what_is_nearly_a_table(data_dir: Path, cli: Cli, name: str, content: str, said: str) -> None:
    (data_dir / "notes.jsonl").unlink()
    (data_dir / name).parent.mkdir(exist_ok=True)
    (data_dir / name).write_text(content, encoding="utf-8")
    for command in (["run", "--data", data_dir], ["index", "bm25", "--out", "x", "--data", data_dir]):
        done = cli(*command)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert said in done.err
    assert cli("data", "validate", data_dir).code in (0, 1)


@pytest.mark.parametrize("encoding", ["jsonl", "csv", "parquet", "arrow"])
@pytest.mark.parametrize(
    "rows", [[], [{}], [{"x": 1}], [{"search_idx": 1}], [{"query": "a"}], [{"answers": ["a"], "search_idx": 1}]]
)
def test_validate_has_a_line_for_any_columns(
    tmp_path: Path, cli: Cli, encoding: str, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("notes", "dqa", "search_test"):
        table = pa.Table.from_pylist(rows)
        match encoding:
            case "jsonl":
                write_jsonl(folder / f"{name}.jsonl", rows)
            case "csv":
                columns = sorted({key for row in rows for key in row})
                (folder / f"{name}.csv").write_text("\n".join([",".join(columns), *("1" for _ in rows)]) + "\n")
            case "parquet":
                pq.write_table(table, folder / f"{name}.parquet")
            case _:
                with pa.ipc.new_file(folder / f"{name}.arrow", table.schema) as writer:
                    writer.write_table(table)
    done = cli("data", "validate", folder)
    assert done.code == (0 if encoding == "jsonl" and not rows else 1)
    for command in (
        ["data", "stats", folder],
        ["run", "--data", folder],
        ["rank", "--ranker", "bm25", "--data", folder],
    ):
        refused = cli(*command)
        assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err


def test_a_column_twice_in_parquet_is_refused(data_dir: Path, cli: Cli) -> None:
    (data_dir / "notes.jsonl").unlink()
    table = pa.table(
        [pa.array([1]), pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["note_idx", "title", "title", "content"]
    )
    pq.write_table(table, data_dir / "notes.parquet")
    for command in (["run", "--data", data_dir], ["data", "validate", data_dir]):
        assert "column 'title' occurs twice" in "".join(cli(*command)[1:])


def test_a_file_is_answered_with_its_folder(data_dir: Path, cli: Cli) -> None:
    done = cli("run", "--data", data_dir / "dqa.jsonl")
    assert (done.code, f"give the folder that it is in: '{data_dir}'" in done.err) == (2, True)


def own_data(folder: Path, encoding: str) -> Path:
    """Notes and questions whose ids are text."""
    folder.mkdir()
    names = {note["note_idx"]: f"note-{note['note_idx']}" for note in NOTES} | {10: "0", 12: "12e45678", 13: "七"}
    notes = [{**note, "note_idx": names[note["note_idx"]]} for note in NOTES]
    questions: list[dict[str, Any]] = [
        {
            **asked,
            "search_idx": f"q{asked['search_idx']}",
            "ref_note_idx_list": [names[i] for i in asked["ref_note_idx_list"]],
        }
        for asked in ASKED
    ]
    for name, rows in (("notes", notes), ("dqa", questions)):
        if encoding == "jsonl":
            write_jsonl(folder / f"{name}.jsonl", rows)
        elif encoding == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        else:
            with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    return folder


def test_ids_that_are_text_are_the_same_run_in_every_encoding(tmp_path: Path, cli: Cli) -> None:
    runs = set()
    for encoding in ("jsonl", "csv", "parquet"):
        folder = own_data(tmp_path / encoding, encoding)
        assert cli("data", "validate", folder).code == 0
        assert cli("data", "convert", folder, "--to", "arrow", "--out", f"{encoding}-arrow").code == 0
        for data in (folder, f"{encoding}-arrow"):
            runs.add(json.loads(cli("run", "--data", data, "--json").out)["run"])
            notes = load_dataset(str(data)).notes
            named = {text_id_number(text) or 0: text for text in ("七", "12e45678")}
            assert notes.text_ids([0, *named]) == named
    assert len(runs) == 1
    shown = cli("show", runs.pop(), "--question", "q2").out
    assert "note 12e45678" in shown and "note 七" in shown
    Path("hits.trec").write_text("q2 Q0 七 1 2 x\nq2 Q0 0 2 1 x\n", encoding="utf-8")
    done = json.loads(cli("run", "--data", tmp_path / "csv", "--retriever", "trec:hits.trec", "--json").out)
    assert done["metrics"]["mrr@5"]["value"] == pytest.approx(1 / 3)


def test_numbers_and_text_are_not_mixed_and_doubles_are_found(data_dir: Path, cli: Cli) -> None:
    write_jsonl(data_dir / "notes.jsonl", [{**NOTES[0], "note_idx": "007"}, {**NOTES[1], "note_idx": "7"}])
    assert "note_idx 7 is already on line 1" in cli("run", "--data", data_dir).err
    for odd in ("5_1", "-1", "1.5", "５", "+5", "2026-01-01", "?"):
        write_jsonl(data_dir / "notes.jsonl", [{**NOTES[0], "note_idx": odd}])
        assert f"note_idx must be a whole number from 0, not {odd!r}" in cli("run", "--data", data_dir).err


def test_an_answer_as_one_text_is_a_list_of_one(tmp_path: Path, data_dir: Path) -> None:
    write_jsonl(data_dir / "dqa.jsonl", [{**asked, "answers": asked["answers"][:1]} for asked in ASKED])
    listed = load_dataset(str(data_dir)).sha256
    write_jsonl(data_dir / "dqa.jsonl", [{**asked, "answers": asked["answers"][0]} for asked in ASKED])
    assert load_dataset(str(data_dir)).sha256 == listed
    (data_dir / "dqa.jsonl").unlink()
    rows = [{"search_idx": 1, "query": "手冲水温", "answers": "92度。"}]
    pq.write_table(pa.Table.from_pylist(rows), data_dir / "dqa.parquet")
    assert load_dataset(str(data_dir)).questions[0].references == ["92度。"]
    (data_dir / "dqa.parquet").unlink()
    (data_dir / "dqa.csv").write_text("search_idx,query,answers\n1,手冲水温,92度。\n", encoding="utf-8")
    assert load_dataset(str(data_dir)).questions[0].references == ["92度。"]
