"""Whether data is the released Qilin: by its size and known rows, never by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_rag.core.types import Question
from qilin_rag.data import load_dataset, released
from qilin_rag.data.requests import read_table
from qilin_rag.data.source import open_source
from qilin_rag.synth import resolve_world, synthesize

TABLES = {"dqa": 6_972, "search_test": 6_192, "recommendation_test": 11_115}


def test_the_questions_of_the_authors_own_rows_are_known(shared: Path) -> None:
    questions = load_dataset(str(shared / "data" / "qilin_toy"), "engaged", "own").questions
    assert released.why_other_questions(1_983_938, questions) is None
    more = [Question(id="1", query="another", references=["a"])]
    assert released.why_other_questions(1_983_938, [*questions, *more]) is None
    assert "10 notes" in str(released.why_other_questions(10, questions))
    for field, value in {"query": "另一个", "reference_notes": [7]}.items():
        changed = [questions[0].model_copy(update={field: value}), *questions[1:]]
        assert "2 of 3" in str(released.why_other_questions(1_983_938, changed))
    assert "2 of 3" in str(released.why_other_questions(1_983_938, questions[1:]))


@pytest.mark.parametrize("table", TABLES)
def test_requests_are_known_by_number_and_rows(shared: Path, table: str) -> None:
    requests = read_table(open_source(str(shared / "data" / "qilin_toy")), table)
    known = dict(zip(requests.ids, requests.queries, strict=True))
    assert "10 requests" in str(released.why_other_requests(table, known))
    filled = known | {f"other {i}": "x" for i in range(TABLES[table] - len(known))}
    assert released.why_other_requests(table, filled) is None
    one, *_ = known
    assert "9 of 10" in str(released.why_other_requests(table, filled | {one: "changed"}))
    first = dict(sorted(known.items(), key=lambda pair: int(pair[0]))[:3])
    assert released.why_other_requests(table, first, is_part=True) is None
    assert released.why_other_requests(table, {"1": "x"}, is_part=True) is not None
    assert released.why_other_requests(table, {}, is_part=True) is not None


def test_synthetic_data_of_the_right_size_is_not_qilin(tmp_path: Path) -> None:
    """Its ids are Qilin's, its queries are not; nor does a folder's name help."""
    out = tmp_path / "Qilin"
    synthesize(resolve_world({"notes": 300, "searches": 100, "recommendations": 50, "dqa": 10, "users": 30}, 5), out)
    assert "notes" in str(released.why_other_data(open_source(str(out)), 300))
    assert released.why_other_data(open_source(str(out)), 1_983_938) is not None
    questions = [Question(id=i, query="q", references=["a"], reference_notes=[1]) for i in ("6685", "3638", "949")]
    assert "0 of 3" in str(released.why_other_questions(1_983_938, questions))
