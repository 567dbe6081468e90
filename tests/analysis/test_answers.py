"""Feedback by group, counted by hand; intervals by scipy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from qilin_rag.analysis.answers import favoured_answers
from qilin_rag.core.errors import UsageError
from qilin_rag.data.source import Source, open_source

NONE = {"is_like_clk": 0.0, "is_content_clk": 0.0, "is_onebox_trace_clk": 0.0, "is_experience_clk": 0.0}


def source_of(folder: Path, rows: list[dict[str, Any]]) -> Source:
    notes = [
        {"note_idx": 1, "title": "a", "content": "", "note_type": 1.0},
        {"note_idx": 2, "title": "b", "content": "", "note_type": 2.0},
        {"note_idx": 3, "title": "c", "content": ""},
    ]
    for name, content in (("notes", notes), ("dqa", rows)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return open_source(str(folder))


def answer(idx: int, text: str, notes: list[int], source: float | None, **flags: float) -> dict[str, Any]:
    return {
        "search_idx": idx,
        "query": "q",
        "dqa_output": text,
        "ref_note_idx_list": notes,
        "query_from_type": source,
        **NONE,
        **flags,
    }


def test_by_hand(tmp_path: Path) -> None:
    rows = [
        answer(1, "短[第1篇](#)", [1], 1.0, is_like_clk=1.0),
        answer(2, "短[第1篇](#)[第1篇](#)", [1], 1.0),
        answer(3, "长" * 50 + "[1][2]", [1, 2], None, is_content_clk=1.0),
        answer(4, "长" * 60, [3], 2.0, is_content_clk=1.0, is_like_clk=1.0),
        answer(5, "-1", [], 2.0, **dict.fromkeys(NONE, -1.0)),
        answer(6, "没有反馈", [2], 2.0, **dict.fromkeys(NONE, -1.0)),
    ]
    tables = {table.key: table for table in favoured_answers(source_of(tmp_path, rows))}
    citations = tables["answers_citations"]
    assert [column.name for column in citations.columns] == [
        "answers",
        "any",
        "liked",
        "content",
        "citation",
        "experience",
    ]
    assert citations.values[0] == [1, 1, 1, 1, 0, 0]  # answer 4
    assert citations.values[1] == [2, 0.5, 0.5, 0, 0, 0]  # one note cited twice is one citation
    assert citations.values[2] == [1, 1, 0, 1, 0, 0]
    assert citations.values[3] == [0, None, None, None, None, None]
    expected = scipy.stats.binomtest(1, 2).proportion_ci(method="wilson")
    assert citations.interval(1, 1) == pytest.approx((expected.low, expected.high))
    assert citations.interval(3, 1) is None and citations.interval(1, 0) is None
    types = tables["answers_notes"]
    assert [values[0] for values in types.values] == [2, 0, 1, 1]
    of_source = tables["answers_source"]
    assert (of_source.values[0][0], of_source.values[1][0], of_source.values[8][0]) == (2, 1, 1)
    lengths = tables["answers_length"]
    assert sum(values[0] or 0 for values in lengths.values) == 4
    assert lengths.rows[0].startswith(f"{len(rows[0]['dqa_output'])} to ")
    assert citations.notes[0] == "1 answers without feedback recorded are left out."


def test_many_answers_to_one_user_are_no_independent_draws(tmp_path: Path) -> None:
    def interval(users: list[int | None]) -> tuple[float, float] | None:
        rows = [
            answer(i, "答", [1], 1.0, user_idx=user, is_like_clk=float(2 * i < len(users)))  # type: ignore[arg-type]
            for i, user in enumerate(users)
        ]
        return favoured_answers(source_of(tmp_path, rows))[3].interval(0, 2)

    assert interval([1, 1, 1, 1, 2, 2, 2, 2]) is None
    of_eight = scipy.stats.binomtest(4, 8).proportion_ci(method="wilson")
    assert interval([None] * 8) == pytest.approx((of_eight.low, of_eight.high))
    assert interval([user for user in range(8) for _ in range(3)]) == pytest.approx((of_eight.low, of_eight.high))


def test_no_feedback_is_said(tmp_path: Path) -> None:
    rows = [answer(1, "答", [1], 1.0, **dict.fromkeys(NONE, -1.0))]
    with pytest.raises(UsageError, match="no answer in dqa has feedback"):
        favoured_answers(source_of(tmp_path, rows))
