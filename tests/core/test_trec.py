from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.errors import UsageError
from qilin_rag.core.trec import format_trec, read_trec, trec_id
from qilin_rag.core.types import Hit

HITS = [Hit(note_idx=7, score=1.5, rank=1), Hit(note_idx=3, score=1.5, rank=2), Hit(note_idx=9, score=-2, rank=3)]


def test_what_is_written_is_read_back_in_the_same_order(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text(format_trec([("a b", HITS), ("2", HITS[:1]), ("3", [])], tag="my tag"), encoding="utf-8")
    assert path.read_text().splitlines()[0] == "a%20b Q0 7 1 3 my%20tag"
    run = read_trec(path)
    assert {key: [hit.note_idx for hit in hits] for key, hits in run.items()} == {"a%20b": [7, 3, 9], "2": [7]}


def read(tmp_path: Path, text: str) -> dict[str, list[int]]:
    path = tmp_path / "run.trec"
    path.write_text(text, encoding="utf-8")
    return {question_id: [hit.note_idx for hit in hits] for question_id, hits in read_trec(path).items()}


def lines_of(question_id: str, *pairs: tuple[int, float]) -> str:
    """Notes 1, 2, ... with these ranks and scores."""
    return "".join(f"{question_id} Q0 {i} {rank} {score} x\n" for i, (rank, score) in enumerate(pairs, 1))


def test_scores_count_and_not_the_order_of_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, "\ufeff1 Q0 9 3 -2 x\n\n1 Q0 7 2 1.5 x\n1 Q0 3 1 1.5e1 x\n") == {"1": [3, 7, 9]}
    assert not caplog.records


def test_ties_go_by_a_hash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = read(tmp_path, "".join(lines_of(f"q{i}", (1, 2), (2, 1), (3, 1), (4, 0)) for i in range(400)))
    assert {(notes[0], notes[3]) for notes in run.values()} == {(1, 4)}
    assert 150 < sum(notes[1] == 2 for notes in run.values()) < 250
    assert run == read(tmp_path, "".join(lines_of(f"q{i}", (1, 2), (2, 1), (3, 1), (4, 0)) for i in range(399, -1, -1)))
    assert not caplog.records


def test_where_rank_and_score_disagree_the_score_counts_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    falling = "".join(lines_of(f"q{i}", (1, 3), (2, 2), (3, 1)) for i in range(3))
    mixed = lines_of("a", (1, 2), (2, 3), (3, 1)) + lines_of("b", (3, 0.5), (1, 0.1), (2, 0.7))
    assert read(tmp_path, falling + mixed) | {} == {
        **{f"q{i}": [1, 2, 3] for i in range(3)},
        "a": [2, 1, 3],
        "b": [3, 1, 2],
    }
    assert "rank and score disagree in 2 of 5 rankings; the scores count" in caplog.text


def test_distances_are_read_by_rank_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    far = lines_of("a", (1, 0.1), (2, 0.4), (3, 0.9)) + lines_of("b", (2, 7), (1, 5)) + lines_of("c", (1, 3))
    path = tmp_path / "run.trec"
    assert read(tmp_path, far) == {"a": [1, 2, 3], "b": [2, 1], "c": [1]}
    assert "in all 2 rankings the score rises with the rank" in caplog.text
    assert [hit.score for hit in read_trec(path)["a"]] == [3, 2, 1]  # the highest is the best, for who fuses them
    with pytest.raises(UsageError, match=r"in 2 of 3 rankings the score rises with the rank"):
        read(tmp_path, far + lines_of("d", (1, 3), (2, 1)))


def test_where_all_scores_are_the_same_the_rank_counts_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(tmp_path, lines_of("a", (2, 0), (1, 0), (3, 0)) + lines_of("b", (1, 2), (2, 1))) == {
        "a": [2, 1, 3],
        "b": [1, 2],
    }
    assert "in 1 of 2 rankings all scores are the same; the ranks count" in caplog.text
    caplog.clear()
    read(tmp_path, lines_of("a", (0, 1), (0, 2)) + lines_of("b", (0, 1), (0, 1)))  # ranks that say nothing
    assert not caplog.records


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 9 1 2.5 x", "line 2: 5 fields .* Q0 seems to be missing"),
        ("1 Q0 9 1 2.5", "line 2: 5 fields .* the tag seems to be missing"),
        ("1 Q0 9 1 x", "line 2: 5 fields .* note_idx, rank or score seems to be missing"),
        ("1 Q0 1 2.5 x", "line 2: 5 fields .* note_idx, rank or score seems to be missing"),
        ("Q0 9 1 2.5 x", "line 2: 5 fields .* the id seems to be missing"),
        ("1 Q0 9 1", "line 2: 4 fields.* 6 .*id Q0 note_idx"),
        ("1 Q0 9 1 2.5 my tag", "line 2: 7 fields.* 6 .*id Q0 note_idx"),
        *(
            (f"1 Q0 {note} 1 2 x", "line 2: note_idx must be")
            for note in ("nine", "5_1", "+5", "５", "-1", "1e3", "1.0")
        ),
        (f"1 Q0 {2**63} 1 2 x", "line 2: note_idx must be"),
        *((f"1 Q0 9 {rank} 2 x", "line 2: the rank must be") for rank in ("1_0", "+1", "1.5", "x", "²")),
        *(
            (f"1 Q0 9 1 {score} x", "line 2: the score must be")
            for score in ("nan", "inf", "1_0.5", "0x1p3", "１.5", "1e999")
        ),
        ("1 Q0 7 1 2 x", "line 2: note 7 is ranked twice for 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"1 Q0 7 1 1.5 x\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=rf"run\.trec, {message}"):
        read_trec(path)
    with pytest.raises(UsageError, match="can't be read"):
        read_trec(tmp_path / "nowhere")


@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True))
def test_any_id_is_one_field_and_different_ones_stay_so(ids: list[str]) -> None:
    fields = [trec_id(question_id) for question_id in ids]
    assert all(field.split() == [field] and len(field.splitlines()) == 1 for field in fields)
    assert len(set(fields)) == len(ids)
    assert trec_id("q-17") == "q-17"
