"""What `data validate` calls a defect of a question, `run` counts at once, and never asks or averages in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.text import is_blank
from qilin_rag.core.types import QuestionDefects
from qilin_rag.data import load_dataset
from qilin_rag.data.defects import count_defects
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl

UNSEEN = ["", " ", "\t\n", "\u3000", "\u200b", "\ufeff\u200b ", "\u3164", "\u2800", "\x00", "\ufe0f", "\U000e0061"]


@pytest.mark.parametrize("text", UNSEEN)
def test_what_no_reader_sees_is_blank(text: str) -> None:
    assert is_blank(text)
    assert not is_blank(f"{text}茶{text}")


@pytest.mark.parametrize("text", ["。", "👨‍👩‍👧", "0", "-", "a\u200b"])
def test_what_a_reader_sees_is_not(text: str) -> None:
    assert not is_blank(text)


def write_data(folder: Path, *changes: dict[str, Any]) -> Path:
    """The small data set, with a further question for each change."""
    folder.mkdir()
    more = [{**QUESTIONS[0], "search_idx": f"more{i}", "query": f"问{i}"} | change for i, change in enumerate(changes)]
    write_jsonl(folder / "notes.jsonl", NOTES)
    write_jsonl(folder / "dqa.jsonl", [*QUESTIONS, *more])
    return folder


def run(cli: Cli, folder: Path, *more: object) -> tuple[dict[str, Any], str]:
    done = cli("run", "--data", folder, "--json", *more)
    assert done.code == 0, done.err
    return json.loads(done.out), done.err


def found(**counts: int) -> dict[str, int]:
    return QuestionDefects(**counts).model_dump()


def test_sound_data_is_not_spoken_of(tmp_path: Path, cli: Cli) -> None:
    record, err = run(cli, write_data(tmp_path / "data"))
    assert record["data_defects"] == found()
    assert "questions of the data" not in err


@pytest.mark.parametrize("query", UNSEEN)
def test_an_empty_query_is_not_asked(tmp_path: Path, cli: Cli, query: str) -> None:
    folder = write_data(tmp_path / "data", {"query": query}, {"query": "茶"})
    record, err = run(cli, folder)
    assert record["counts"]["questions"] == len(QUESTIONS) + 1
    assert record["data_defects"]["empty_queries"] == 1
    [line] = [line for line in err.splitlines() if "empty query" in line]
    assert "1 with an empty query" in line and f"data validate {folder}" in line
    samples = Path(record["run"], "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert "more0" not in {json.loads(sample)["question_id"] for sample in samples}
    done = cli("data", "validate", folder)
    assert done.code == 1 and "query is empty" in done.out
    assert cli("retrieve", "--data", folder, "--out", "bm25.trec").err.count("empty query") == 1
    assert "more0" not in Path("bm25.trec").read_text(encoding="utf-8")
    assert json.loads(cli("run", "--data", folder, "--dry-run", "--json").out)["questions"] == len(QUESTIONS) + 1


def test_data_without_a_single_query_is_refused(tmp_path: Path, cli: Cli) -> None:
    write_data(tmp_path / "data")
    write_jsonl(tmp_path / "data" / "dqa.jsonl", [{**question, "query": "\u200b"} for question in QUESTIONS])
    done = cli("run", "--data", tmp_path / "data")
    assert done.code == 2 and "query" in done.err and "empty" in done.err


def test_dangling_reference_notes_are_counted_and_said(tmp_path: Path, cli: Cli) -> None:
    changes = [{"ref_note_idx_list": [11, 900]}, {"ref_note_idx_list": [900, 901]}, {"ref_note_idx_list": [11]}]
    folder = write_data(tmp_path / "data", *changes)
    record, err = run(cli, folder)
    expected = found(dangling_notes=2, questions_with_dangling_notes=2)
    assert record["data_defects"] == expected
    assert "2 with reference notes that are not in the data (2 notes)" in err
    shown = cli("run", "--data", folder)
    assert "not in the data" in " ".join(shown.out.split())  # beside the figures
    cli("run", "--data", folder, "--prompt", "concise")
    assert " ".join(cli("leaderboard").out.split()).count("not in the data (2 notes)") == 1  # of both runs
    # Recall keeps them in its denominator: of two reference notes of more0 one can be found, of more1 none.
    ids = [str(question["search_idx"]) for question in QUESTIONS] + ["more0", "more1", "more2"]
    Path("found.trec").write_text("".join(f"{question} Q0 11 1 1.0 made\n" for question in ids))
    by_rank, _ = run(cli, folder, "--retriever", "trec:found.trec")
    recalls = [
        json.loads(line)
        for line in Path(by_rank["run"], "scores.jsonl").read_text(encoding="utf-8").splitlines()
        if '"recall' in line
    ]
    by_id = {score["question_id"]: score["value"] for score in recalls}
    assert (by_id["more0"], by_id["more1"], by_id["more2"]) == (0.5, 0.0, 1.0)
    stats = json.loads(cli("data", "stats", folder, "--json").out)["answers"]
    assert stats["reference notes not in the data"] == 2
    assert stats["answers with such reference notes"] == 2


@pytest.mark.parametrize("text", ["**", "[第1篇](#)", "**[1]** `", "__ \u3000"])
def test_references_of_markup_alone_are_counted(tmp_path: Path, cli: Cli, text: str) -> None:
    folder = write_data(tmp_path / "data", {"answers": [text]}, {"answers": ["茶", text]})
    record, err = run(cli, folder)
    assert record["data_defects"] == found(empty_references=2, questions_with_empty_references=2)
    assert "references without text" in err
    done = json.loads(cli("data", "validate", folder, "--json").out)
    assert [defect["column"] for defect in done["defects"]] == ["answers", "answers"]


def test_repeated_questions_are_counted(tmp_path: Path, cli: Cli) -> None:
    same = {"query": "Ａ b", "answers": ["一"]}
    folder = write_data(tmp_path / "data", same, {**same, "query": "a  B"}, same, {**same, "answers": ["二"]})
    record, err = run(cli, folder)
    assert record["data_defects"] == found(repeated_questions=2)
    assert err == ""  # no warning: nothing is wrong with the data
    assert "2 with query and references of another question" in " ".join(cli("run", "--data", folder).out.split())
    [remark] = json.loads(cli("data", "validate", folder, "--json").out)["remarks"]
    assert remark.startswith("dqa: 2 rows")


def test_only_the_questions_of_the_run_count(tmp_path: Path, cli: Cli) -> None:
    folder = write_data(tmp_path / "data", {"ref_note_idx_list": [900]})
    Path("ids.txt").write_text(f"{QUESTIONS[0]['search_idx']}\n")
    record, err = run(cli, folder, "--ids", "ids.txt")
    assert record["data_defects"] == found() and "not in the data" not in err
    dataset = load_dataset(str(folder))
    assert count_defects(dataset.questions, dataset.notes).dangling_notes == 1


def test_a_sweep_says_it_once(tmp_path: Path, cli: Cli) -> None:
    folder = write_data(tmp_path / "data", {"ref_note_idx_list": [900]})
    Path("grid.yaml").write_text(f"data: {folder}\nretrievers: [none, bm25]\nprompts: [default, concise]\n")
    done = cli("sweep", "grid.yaml")
    assert done.code == 0 and done.err.count("not in the data") == 1
