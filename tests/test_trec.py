from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.errors import UsageError
from qilin_rag.trec import format_trec, read_trec, trec_id
from qilin_rag.types import Hit

HITS = [Hit(note_idx=7, score=1.5, rank=1), Hit(note_idx=3, score=1.5, rank=2), Hit(note_idx=9, score=-2, rank=3)]


def test_what_is_written_is_read_back_in_the_same_order(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text(format_trec([("a b", HITS), ("2", HITS[:1]), ("3", [])], tag="my tag"), encoding="utf-8")
    assert path.read_text().splitlines()[0] == "a%20b Q0 7 1 3 my%20tag"
    run = read_trec(path)
    assert {key: [hit.note_idx for hit in hits] for key, hits in run.items()} == {"a%20b": [7, 3, 9], "2": [7]}


def test_order_comes_from_scores_then_ids_not_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("\ufeff1 Q0 9 1 -2 x\n\n1 Q0 7 2 1.5 x\n1 Q0 3 3 1.5 x\n", encoding="utf-8")
    assert [(hit.note_idx, hit.rank) for hit in read_trec(path)["1"]] == [(3, 1), (7, 2), (9, 3)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 Q0 9 1", "line 2: expected id Q0 note_idx rank score tag"),
        ("1 Q0 nine 1 2 x", "line 2: expected"),
        ("1 Q0 9 1 nan x", "line 2: the score must be a number"),
        ("1 Q0 7 1 2 x", "line 2: note 7 is ranked twice for 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"1 Q0 7 1 1.5 x\n{line}\n")
    with pytest.raises(UsageError, match=message):
        read_trec(path)
    with pytest.raises(UsageError, match="can't be read"):
        read_trec(tmp_path / "nowhere")


@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True))
def test_any_id_is_one_field_and_different_ones_stay_so(ids: list[str]) -> None:
    fields = [trec_id(question_id) for question_id in ids]
    assert all(field.split() == [field] and len(field.splitlines()) == 1 for field in fields)
    assert len(set(fields)) == len(ids)
    assert trec_id("q-17") == "q-17"
