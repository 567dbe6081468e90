"""Tables and texts in terminals of 80 and 120 columns: none is too wide, and Chinese is aligned."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from qilin_rag.cli.ui import TEXT_WIDTH_CHARS, print_hanging
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import QUESTIONS, Cli, write_jsonl

NAME = "我们公司的问答系统第二版（含重排）"


@pytest.fixture
def runs(data_dir: Path, cli: Cli) -> list[str]:
    """Two runs over queries in Chinese; the second has a long Chinese name."""
    answers = [{"question_id": str(asked["search_idx"]), "answer": "夏天遮阴断水。"} for asked in QUESTIONS]
    write_jsonl(Path("answers.jsonl"), answers)
    made = cli("run", "--data", data_dir, "-q").out.splitlines()[-1]
    imported = cli("import-answers", "answers.jsonl", "--data", data_dir, "--name", NAME, "-q").out.splitlines()[-1]
    return [made, imported]


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_too_wide(runs: list[str], columns: int, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in (
        ["show", runs[0]],
        ["show", runs[1]],
        ["leaderboard"],
        ["leaderboard", "--controls"],
        ["cache", "ls"],
    ):
        done = cli(*command)
        assert done.code == 0
        lines = done.out.splitlines()
        if command[:2] == ["cache", "ls"]:
            lines.pop()  # the folder, to be copied whole
        assert [line for line in lines if cell_len(line) > columns] == [], command
    assert NAME in "".join(cli("leaderboard").out.split())


def test_texts_are_no_wider_where_tables_may_be(runs: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a pipe, in which a table may have 160 columns
    counts = {"notes": 200, "searches": 60, "recommendations": 60, "dqa": 20, "users": 10}
    synthesize(resolve_world(counts, 1), Path("w"))
    for command in (
        ["rank", "--ranker", "bm25", "--data", "w", "--slices"],
        ["data", "validate", "w"],
        ["leaderboard"],
        ["list", "runs"],
    ):
        done = cli(*command)
        assert done.code == 0
        assert [line for line in done.out.splitlines() if cell_len(line) > TEXT_WIDTH_CHARS] == [], command
    monkeypatch.setenv("COLUMNS", "400")
    rows = cli("data", "validate", "w").out
    assert "recommendation_test" in rows and len(rows.splitlines()) == 2


def test_columns_are_aligned_over_chinese(runs: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("show", runs[1]).out
    [column] = [cell_len(line.partition("query")[0]) for line in shown.splitlines() if line.startswith("question ")]
    queries = [str(asked["query"]) for asked in QUESTIONS]
    assert [
        cell_len(line.partition(query)[0]) for query in queries for line in shown.splitlines() if query in line
    ] == [column] * len(queries)
    table = "tokens" + cli("leaderboard").out.partition("\ntokens")[2].partition("\n\n")[0]
    assert NAME in table
    assert len({cell_len(line) for line in table.splitlines() if line.endswith(("cost", "none", "unknown"))}) == 1


def test_further_lines_are_indented() -> None:
    to = Console(file=io.StringIO(), width=40)
    print_hanging(to, "top_k 5, 提示词 默认的提示词很长很长很长很长很长很长, seed 0", first="settings   ")
    print_hanging(to, "rouge_l: " + "x" * 50, first="  ", indent=4)
    assert isinstance(to.file, io.StringIO)
    lines = to.file.getvalue().splitlines()
    assert lines[0].startswith("settings   top_k 5")
    legend = next(number for number, line in enumerate(lines) if line.startswith("  rouge_l"))
    assert all(line.startswith(" " * 11) and line[11] != " " for line in lines[1:legend])
    assert all(line.startswith("    x") for line in lines[legend + 1 :])
    assert all(cell_len(line) <= 40 for line in lines)
    assert "".join("".join(lines).split()).count("x") == 50
