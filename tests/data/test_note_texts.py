"""The text of a note is made of the fields that are named, wherever the text of its images comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.errors import UsageError
from qilin_rag.core.note_fields import NoteField, note_fields_label, read_note_fields
from qilin_rag.data import load_dataset, notes
from qilin_rag.data.convert import convert
from qilin_rag.data.source import IMAGE_TEXT_MANIFEST, open_source
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl

ALL: tuple[NoteField, ...] = ("title", "content", "image_text")
IMAGE_TEXTS = {10: "售价68元\n周一休息", 12: "", 14: "门票30元"}


def as_column(folder: Path) -> None:
    rows = [{**note, "image_text": IMAGE_TEXTS.get(int(str(note["note_idx"])))} for note in NOTES]
    write_jsonl(folder / "notes.jsonl", rows)


def as_jsonl(folder: Path) -> None:
    write_jsonl(folder / "image_text.jsonl", rows_of_table())


def as_parquet(folder: Path) -> None:
    (folder / "image_text").mkdir()
    for i, row in enumerate(rows_of_table()):
        pq.write_table(pa.Table.from_pylist([row]), folder / "image_text" / f"train-{i}.parquet")


def rows_of_table() -> list[dict[str, Any]]:
    """In another order than the notes, with one that the data does not have."""
    rows = [{"note_idx": number, "image_text": text} for number, text in {77: "nobody's", **IMAGE_TEXTS}.items()]
    return rows[::-1]


layouts = pytest.mark.parametrize("write", [as_column, as_jsonl, as_parquet])


@layouts
@pytest.mark.parametrize("largest_bytes", [0, 1 << 24], ids=["on disk", "in memory"])
def test_title_and_content_of_each_choice(
    write: Callable[[Path], None], largest_bytes: int, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "_LARGEST_IN_MEMORY_BYTES", largest_bytes)
    write(data_dir)
    own = {int(str(note["note_idx"])): (str(note["title"]), str(note["content"])) for note in NOTES}
    seen = set()
    choices: list[tuple[NoteField, ...]] = [("title",), ("content",), ("image_text",), ("title", "content")]
    for fields in [*choices, ("title", "image_text"), ALL]:
        expected = {}
        for number, (title, content) in own.items():
            parts = [
                content if "content" in fields else "",
                IMAGE_TEXTS.get(number, "") if "image_text" in fields else "",
            ]
            expected[number] = (title if "title" in fields else "", "\n".join(filter(None, parts)))
        for _ in range(2):  # converted, then as it is kept
            dataset = load_dataset(str(data_dir), note_fields=fields)
            read = {note.note_idx: (note.title, note.content) for note in dataset.notes}
            assert read == expected
            assert {note.note_idx: (note.title, note.content) for note in dataset.notes.get([*own])} == expected
            assert dataset.sha256 == load_dataset(str(data_dir)).sha256
        seen.add(dataset.notes.sha256)
    assert len(seen) == 6


@layouts
def test_the_hashes_of_data_do_not_depend_on_texts_of_images(write: Callable[[Path], None], data_dir: Path) -> None:
    before = load_dataset(str(data_dir))
    write(data_dir)
    after = load_dataset(str(data_dir))
    assert (after.sha256, after.notes.sha256) == (before.sha256, before.notes.sha256)


@layouts
@pytest.mark.parametrize("encoding", ["parquet", "arrow", "jsonl"])
def test_convert_takes_them_along(
    write: Callable[[Path], None], encoding: str, data_dir: Path, tmp_path: Path, cli: Cli
) -> None:
    write(data_dir)
    convert(open_source(str(data_dir)), encoding, tmp_path / "out")
    named = load_dataset(str(data_dir), note_fields=ALL), load_dataset(str(tmp_path / "out"), note_fields=ALL)
    assert named[0].notes.sha256 == named[1].notes.sha256
    assert cli("data", "stats", tmp_path / "out").code == 0


@given(
    texts=st.dictionaries(
        st.integers(0, 40), st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=20
    )
)
def test_values_in_are_values_out(texts: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "notes.jsonl", [{"note_idx": i, "title": "t", "content": ""} for i in range(41)])
    write_jsonl(folder / "dqa.jsonl", [{"search_idx": 1, "query": "q", "answers": ["a"]}])
    write_jsonl(folder / "image_text.jsonl", [{"note_idx": i, "image_text": text} for i, text in texts.items()])
    store = load_dataset(str(folder), note_fields=("image_text",)).notes
    assert {note.note_idx: note.content for note in store} == {i: texts.get(i, "") for i in range(41)}


def test_ids_that_are_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"note_idx": name, "title": "t", "content": "c"} for name in ("n-1", "n-2")])
    write_jsonl(tmp_path / "dqa.jsonl", [{"search_idx": 1, "query": "q", "answers": ["a"]}])
    write_jsonl(tmp_path / "image_text.jsonl", [{"note_idx": "n-2", "image_text": "two"}])
    assert [note.content for note in load_dataset(str(tmp_path), note_fields=ALL).notes] == ["c", "c\ntwo"]


def test_data_without_the_text_of_images_says_how_to_get_it(data_dir: Path, cli: Cli) -> None:
    for command in (["run"], ["retrieve", "--out", "x.trec"], ["index", "bm25", "--out", "index"]):
        done = cli(*command, "--data", data_dir, "--note-fields", "title,image_text")
        assert done.code == 2
        assert f"qilin-rag data ocr {data_dir}" in done.err
        assert "image_text" in done.err
    done = cli("run", "--data", "sample-images", "--note-fields", "image_text")
    assert done.code == 2
    assert "qilin-rag data ocr sample-images --out FOLDER" in done.err


def test_twice_is_refused(data_dir: Path) -> None:
    as_column(data_dir)
    as_jsonl(data_dir)
    load_dataset(str(data_dir))
    with pytest.raises(UsageError, match=r"image_text twice"):
        load_dataset(str(data_dir), note_fields=ALL)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"note_idx": 10, "image_text": "a"}, {"note_idx": 10, "image_text": "b"}], "line 2: note_idx 10 is already"),
        ([{"note_idx": None, "image_text": "a"}], "line 1: note_idx is missing"),
        ([{"note_idx": 10, "text": "a"}], "line 1: key 'image_text' is missing; found instead: 'text'"),
        ([{"note_idx": 10, "image_text": ["a"]}], "line 1: image_text"),
    ],
)
def test_defects_of_the_table(rows: list[dict[str, Any]], problem: str, data_dir: Path, cli: Cli) -> None:
    write_jsonl(data_dir / "image_text.jsonl", rows)
    with pytest.raises(UsageError, match=problem.replace("[", r"\[")):
        load_dataset(str(data_dir), note_fields=ALL)
    found = cli("data", "validate", data_dir)
    assert found.code == 1
    assert problem in found.out


def test_validate_names_notes_that_do_not_exist(data_dir: Path, cli: Cli) -> None:
    as_jsonl(data_dir)
    found = cli("data", "validate", data_dir)
    assert found.code == 1
    assert "image_text.jsonl, line 4: note_idx 77 is not in the table notes" in found.out


def test_a_folder_beside_the_data(data_dir: Path, tmp_path: Path, cli: Cli) -> None:
    beside = tmp_path / "texts"
    beside.mkdir()
    as_jsonl(beside)
    (beside / IMAGE_TEXT_MANIFEST).write_text(json.dumps({"data": str(data_dir)}))
    plain, read = load_dataset(str(beside)), load_dataset(str(beside), note_fields=ALL)
    assert plain.sha256 == read.sha256 == load_dataset(str(data_dir)).sha256
    assert (read.name, read.label) == ("small", "small")
    assert [note.content for note in read.notes.get([14])] == ["今天也是想辞职的一天😭\n门票30元"]
    assert cli("data", "validate", beside).code == 1
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / IMAGE_TEXT_MANIFEST).write_text(json.dumps({"data": str(beside)}))
    with pytest.raises(UsageError, match="itself"):
        load_dataset(str(nested))
    (nested / IMAGE_TEXT_MANIFEST).write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        load_dataset(str(nested))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("title,content", "title+content"),
        ("image_text+title", "title+image_text"),
        (["content"], "content"),
        (" image_text , content,title ", "title+content+image_text"),
    ],
)
def test_fields_in_any_form_and_order(given: Any, expected: str) -> None:
    assert note_fields_label(given) == expected
    assert read_note_fields(expected) == read_note_fields(given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("titel", "'titel' is not a field of notes; known: title, content, image_text"),
        ("title,title", "'title' is named twice"),
        ("", "names no field"),
        (",", "names no field"),
        ([], "names no field"),
        (3, "must be names"),
        ([3], "must be names"),
        (None, "must be names"),
    ],
)
def test_wrong_fields(given: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_note_fields(given)


def test_questions_are_those_of_the_data(data_dir: Path) -> None:
    as_jsonl(data_dir)
    assert len(load_dataset(str(data_dir), note_fields=ALL).questions) == len(QUESTIONS)


def test_without_the_engine_the_extra_is_named(data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda module: None)
    done = cli("data", "ocr", data_dir)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "pip install 'qilin-rag[ocr]'" in done.err
