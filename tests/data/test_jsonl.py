from __future__ import annotations

import json
from pathlib import Path

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data import load_dataset
from qilin_rag.data.dataset import hash_questions
from tests.conftest import NOTES, QUESTIONS, write_jsonl


def test_notes_and_questions_are_read(data_dir: Path) -> None:
    data = load_dataset(str(data_dir))
    assert data.name == data.label == "small"
    assert [note.model_dump() for note in data.notes] == NOTES
    assert [question.id for question in data.questions] == ["1", "2", "3"]
    assert data.questions[1].references == QUESTIONS[1]["answers"]
    assert data.questions[1].reference_notes == [12, 13]


def test_notes_are_got_by_id_in_the_order_asked_for(data_dir: Path) -> None:
    notes = load_dataset(str(data_dir)).notes
    assert [note.note_idx for note in notes.get([13, 10, 13])] == [13, 10, 13]
    assert notes.get([]) == []
    assert notes.note_idxs.tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(UsageError, match="has no note 9, 99"):
        notes.get([99, 10, 9])


def test_blank_lines_a_byte_order_mark_and_a_missing_last_line_break_are_fine(data_dir: Path) -> None:
    path = data_dir / "notes.jsonl"
    lines = [json.dumps(note, ensure_ascii=False) for note in NOTES]
    path.write_text("\ufeff" + lines[0] + "\r\n\n  \n" + "\n".join(lines[1:]), encoding="utf-8", newline="")
    notes = load_dataset(str(data_dir)).notes
    assert [note.model_dump() for note in notes] == NOTES
    assert [note.model_dump() for note in notes.get([10, 14])] == [NOTES[0], NOTES[4]]


def test_extra_keys_of_a_question_are_kept(data_dir: Path) -> None:
    write_jsonl(data_dir / "dqa.jsonl", [{**QUESTIONS[0], "user_idx": 7, "nested": [[1]], "search_idx": "a-1"}])
    question = load_dataset(str(data_dir)).questions[0]
    assert (question.id, question.meta) == ("a-1", {"user_idx": 7})


def test_the_hash_is_of_what_is_said_not_of_the_file(data_dir: Path, tmp_path: Path) -> None:
    first = load_dataset(str(data_dir))
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.jsonl").write_text("".join(json.dumps(dict(reversed(note.items()))) + "\n" for note in NOTES[::-1]))
    write_jsonl(other / "dqa.jsonl", QUESTIONS[::-1])
    assert load_dataset(str(other)).sha256 == first.sha256
    write_jsonl(other / "notes.jsonl", [{**NOTES[0], "title": "冷萃咖非"}, *NOTES[1:]])
    assert load_dataset(str(other)).sha256 != first.sha256
    assert hash_questions(first.questions) != hash_questions(first.questions[:2])


def test_lone_surrogates_in_the_data_become_replacement_characters(data_dir: Path) -> None:
    (data_dir / "notes.jsonl").write_text('{"note_idx": 1, "title": "a\\ud800", "content": "\\u0000b"}\n')
    note = next(iter(load_dataset(str(data_dir)).notes))
    assert (note.title, note.content) == ("a\ufffd", "\0b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'note_idx': 1}", "line 2: not valid JSON"),
        ('{"note_idx": 1', "line 2: not valid JSON"),
        ("[1]", "line 2: expected a JSON object"),
        ('{"note_idx": 1, "title": ""}', "line 2: key 'content' is missing"),
        ('{"note_idx": "1", "title": "", "content": ""}', "line 2: note_idx must be a whole number"),
        ('{"note_idx": true, "title": "", "content": ""}', "line 2: note_idx must be a whole number"),
        ('{"note_idx": -1, "title": "", "content": ""}', "line 2: note_idx must be a whole number"),
        ('{"note_idx": 1e400, "title": "", "content": ""}', "line 2: note_idx must be a whole number"),
        ('{"note_idx": 99999999999999999999, "title": "", "content": ""}', "line 2: note_idx must be a whole number"),
        ('{"note_idx": 1, "title": ["a"], "content": ""}', "line 2: title must be text, not ['a']"),
        ('{"note_idx": null, "title": "", "content": ""}', "line 2: note_idx is missing"),
        ('{"note_idx": 10, "title": "", "content": ""}', "line 2: note_idx 10 is already on line 1"),
        ("[" * 100_000, "line 2: not valid JSON"),
    ],
)
def test_a_wrong_note_is_named_by_file_and_line(data_dir: Path, line: str, message: str) -> None:
    (data_dir / "notes.jsonl").write_text(json.dumps(NOTES[0]) + "\n" + line + "\n")
    with pytest.raises(UsageError) as caught:
        load_dataset(str(data_dir))
    assert f"notes.jsonl, {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": []}, "answers must be a list"),
        ({"answers": " "}, "answers must be a list"),
        ({"answers": ["  "]}, "answers must be a list"),
        ({"query": 3}, "query must be text"),
        ({"search_idx": None}, "search_idx is missing"),
        ({"search_idx": [1]}, "search_idx must be a whole number or text"),
        ({"search_idx": 1}, "search_idx 1 is already on line 1"),
        ({"ref_note_idx_list": ["10"]}, "ref_note_idx_list [0] must be a whole number from 0, not '10'"),
        ({"ref_note_idx_list": [None]}, "ref_note_idx_list holds a missing value"),
        ({"ref_note_idx_list": 10}, "ref_note_idx_list must be"),
    ],
)
def test_a_wrong_question_is_named_by_file_and_line(data_dir: Path, change: dict[str, object], message: str) -> None:
    write_jsonl(data_dir / "dqa.jsonl", [QUESTIONS[0], {**QUESTIONS[1], **change}])
    with pytest.raises(UsageError) as caught:
        load_dataset(str(data_dir))
    assert f"dqa.jsonl, line 2: {message}" in str(caught.value)


def test_bytes_that_are_not_utf8_are_named(data_dir: Path) -> None:
    (data_dir / "notes.jsonl").write_bytes(b'{"note_idx": 1, "title": "\xff", "content": ""}\n')
    with pytest.raises(UsageError, match="line 1: not UTF-8 text"):
        load_dataset(str(data_dir))


@pytest.mark.parametrize("missing", ["notes.jsonl", "dqa.jsonl"])
def test_a_missing_file_is_named(data_dir: Path, missing: str) -> None:
    (data_dir / missing).unlink()
    with pytest.raises(UsageError, match=f"table {missing.removesuffix('.jsonl')} does not exist"):
        load_dataset(str(data_dir))
    with pytest.raises(UsageError, match="does not exist"):
        load_dataset("/no/such/place")


def test_no_question_is_an_error_no_note_is_not(data_dir: Path) -> None:
    (data_dir / "notes.jsonl").write_text("")
    assert len(load_dataset(str(data_dir)).notes) == 0
    (data_dir / "dqa.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="holds no question"):
        load_dataset(str(data_dir))
