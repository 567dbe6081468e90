from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.types import AnswerSelection
from qilin_rag.data import load_dataset
from qilin_rag.data.questions import FLAGS
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl
from tests.data.qilin import TABLES, changed, columns, write_csv, write_parquet
from tests.data.qilin import write_jsonl as write_tables


def ids(folder: Path, **selection: Any) -> list[str]:
    return sorted(question.id for question in load_dataset(str(folder), **selection).questions)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("engaged", ["650", "6685", "8"]),
        ("liked", ["650"]),
        ("content", ["6685"]),
        ("citation", ["650"]),
        ("experience", ["8"]),
        ("shown", ["650", "6685", "8", "9"]),
    ],
)
def test_answers_are_selected_by_their_feedback(tmp_path: Path, answers: str, expected: list[str]) -> None:
    assert ids(write_parquet(tmp_path / "data"), answers=answers) == expected


def test_every_selection_is_known() -> None:
    assert set(FLAGS) == set(get_args(AnswerSelection))


def test_what_a_question_holds(tmp_path: Path) -> None:
    data = load_dataset(str(write_parquet(tmp_path / "data")))
    [question] = [question for question in data.questions if question.id == "6685"]
    assert question.query == "ＫＬ 饺子"
    assert question.references == ["煮开[第1篇](#)。"]
    assert question.reference_notes == [4, 3]
    assert question.recorded["bm25"] == [(4, 33.502201), (6, 21.5), (3, 21.5)]
    assert question.meta["user_idx"] == 1
    assert question.meta["query_from_type"] == 2.0
    assert question.meta["is_content_clk"] == 1.0


def test_answers_to_the_same_query_as_references(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "data")
    own = {question.id: question.references for question in load_dataset(str(folder)).questions}
    shared = {question.id: question.references for question in load_dataset(str(folder), references="query").questions}
    assert own == {"6685": ["煮开[第1篇](#)。"], "8": ["再煮。"], "650": ["有用。"]}
    assert shared == {"6685": ["煮开[第1篇](#)。", "再煮。"], "8": ["再煮。", "煮开[第1篇](#)。"], "650": ["有用。"]}
    every = load_dataset(str(folder), answers="shown", references="query").questions
    assert {question.id: question.references for question in every}["9"] == ["没人点。", "有用。"]


def test_selections_are_other_runs_where_they_change_the_questions(tmp_path: Path) -> None:
    folder = str(write_parquet(tmp_path / "data"))
    hashes = {
        load_dataset(folder, answers, references).sha256
        for answers in ("engaged", "liked", "shown")
        for references in ("own", "query")
    }
    assert len(hashes) == 5  # liked: one question, nothing to share


def test_a_selection_without_its_columns_is_one_line(tmp_path: Path, data_dir: Path) -> None:
    folder = write_parquet(tmp_path / "no-flags", columns(TABLES, "dqa", list(FLAGS["engaged"])))
    with pytest.raises(UsageError, match=r"answers=engaged .*is_like_clk or .*answers=shown"):
        load_dataset(str(folder))
    assert len(load_dataset(str(folder), answers="shown").questions) == 4
    assert len(load_dataset(str(data_dir)).questions) == 3  # the generic layout: all answers count as engaged
    with pytest.raises(UsageError, match=r"answers=liked .*is_like_clk"):
        load_dataset(str(data_dir), answers="liked")


def test_no_question_left_is_said_with_the_number_of_rows(tmp_path: Path) -> None:
    only = {**TABLES, "dqa": [TABLES["dqa"][0], TABLES["dqa"][4]]}
    with pytest.raises(UsageError, match=r"none of the 2 rows .*answers=engaged.*; others: liked"):
        load_dataset(str(write_parquet(tmp_path / "data", only)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"query": None}, "query is missing"),
        ({"search_idx": 6685}, "search_idx 6685 is already on"),
        ({"ref_note_idx_list": [1, None]}, "ref_note_idx_list holds a missing value"),
        ({"ref_note_idx_list": "[1, 2"}, "ref_note_idx_list must be a list"),
        ({"bm25_results": [[1.0, 2.0], [3.0]]}, r"bm25_results \[1\] must be a pair"),
        ({"bm25_results": [[1.5, 2.0]]}, r"bm25_results \[0\] must begin with a whole number"),
        ({"bm25_results": [[1.0, None]]}, r"bm25_results \[0\] must be a pair"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    folder = write_tables(tmp_path / "data", changed("dqa", 2, **values))
    with pytest.raises(UsageError, match=rf"dqa\.jsonl, line \d: {message}"):
        load_dataset(str(folder))


def test_recorded_results_as_a_retriever(tmp_path: Path, cli: Cli) -> None:
    data = load_dataset(str(write_csv(tmp_path / "data")))
    ranked = RETRIEVERS.create("recorded:bm25", {}).search(data.questions, data.notes, 3)
    assert [[(hit.score, hit.rank) for hit in hits] for hits in ranked] == [[(33.502201, 1), (21.5, 2), (21.5, 3)]] * 3
    assert all([hit.note_idx for hit in hits] in ([4, 3, 6], [4, 6, 3]) for hits in ranked)  # of a tie, in any order
    [first, *_] = RETRIEVERS.create("recorded:dpr", {}).search(data.questions, data.notes, 5)
    assert [(hit.note_idx, hit.score) for hit in first] == [(3, 340.25)]
    done = cli("run", "--data", "data", "--retriever", "recorded:bm25")
    assert done.code == 0
    assert "recorded:bm25 + extractive" in done.out
    wrong = cli("run", "--data", "data", "--retriever", "recorded:bm52")
    assert wrong.code == 2
    assert "no recorded results 'bm52' for question 6685; it has bm25, dpr" in wrong.err
    assert cli("run", "--retriever", "recorded:bm25").code == 2


def test_missing_notes_are_an_error_or_left_out_and_counted(tmp_path: Path, cli: Cli) -> None:
    write_jsonl(tmp_path / "notes.jsonl", NOTES[1:])
    gone = {**QUESTIONS[0], "ref_note_idx_list": [10]}
    write_jsonl(tmp_path / "dqa.jsonl", [gone, {**QUESTIONS[1], "ref_note_idx_list": [10, 12, 13]}, QUESTIONS[2]])
    stopped = cli("run", "--data", tmp_path, "--retriever", "oracle")
    assert stopped.code == 2
    assert "names notes that are not in the data: 10; " in stopped.err and "--missing-notes skip" in stopped.err
    assert "left out" not in cli("leaderboard").err
    done = cli("run", "--data", tmp_path, "--retriever", "oracle", "--missing-notes", "skip")
    assert done.code == 0
    assert "2 hits not in the data, 1 questions left without notes" in done.out
    whole = cli("show", done.out.splitlines()[-1], "--question", "2", "--json").out
    assert '"notes_missing": 1' in whole
    assert '"rank": 2' in whole
    assert "2 hits not in the data, 1 questions left" in cli("leaderboard").out
    assert cli("run", "--data", tmp_path, "--missing-notes", "no").code == 2
