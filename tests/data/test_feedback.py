"""Feedback flags and re-search labels: by hand, whatever the order of rows, and on the authors' own rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Question
from qilin_rag.data.feedback import find_re_searches, query_similarity, read_feedback, read_re_searches
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.data.schema import FEEDBACK
from qilin_rag.data.source import open_source
from tests.data.qilin import LAYOUTS, TABLES, changed, columns, write_jsonl

MINUTE = 60_000
NOBODY = -1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flags_of_every_answer_shown(tmp_path: Path, layout: str) -> None:
    feedback = read_feedback(open_source(str(LAYOUTS[layout](tmp_path / "data"))))
    by_id = {
        search_idx: [int(feedback.flags[name][i]) for name in FEEDBACK] for i, search_idx in enumerate(feedback.ids)
    }
    assert by_id == {"6685": [0, 1, 0, 0], "650": [1, 0, 1, 0], "8": [0, 0, 0, 1], "9": [0, 0, 0, 0]}
    engaged = dict(zip(feedback.ids, feedback.engaged.tolist(), strict=True))
    assert engaged == {"6685": 1, "650": 1, "8": 1, "9": 0}
    users = dict(zip(feedback.ids, feedback.user_idx.tolist(), strict=True))
    assert users == {"6685": 1, "650": 2, "8": 2, "9": 0}
    assert set(feedback.session_idx.tolist()) == {9}
    assert dict(zip(feedback.ids, feedback.queries, strict=True))["650"] == "补课有用吗"


def test_what_is_not_recorded_is_not_0(tmp_path: Path) -> None:
    row = dict.fromkeys(FEEDBACK, -1.0) | {"user_idx": None}
    feedback = read_feedback(open_source(str(write_jsonl(tmp_path / "one", changed("dqa", 1, **row)))))
    at = feedback.ids.index("6685")
    assert {int(flags[at]) for flags in feedback.flags.values()} == {-1}
    assert (int(feedback.engaged[at]), int(feedback.user_idx[at])) == (-1, -1)
    fewer = columns(TABLES, "dqa", FEEDBACK[1:])
    assert list(read_feedback(open_source(str(write_jsonl(tmp_path / "two", fewer)))).flags) == [FEEDBACK[0]]
    none = open_source(str(write_jsonl(tmp_path / "three", columns(TABLES, "dqa", FEEDBACK))))
    with pytest.raises(UsageError, match=r"has no feedback on answers; it needs dqa_output and one of is_like_clk"):
        read_feedback(none)
    nameless = open_source(str(write_jsonl(tmp_path / "four", changed("dqa", 1, search_idx=None))))
    with pytest.raises(UsageError, match="line 4: search_idx is missing"):
        read_feedback(nameless)


def asked(*rows: tuple[int, float, str, bool]) -> Requests:
    """Searches by user, minute, query, and whether an answer was shown."""
    users, minutes, queries, answered = zip(*rows, strict=True)
    questions = [Question(id=str(i), query=query, references=["-"]) for i, query in enumerate(queries)]
    arrays: dict[str, Any] = {
        "user_idx": np.array(users),
        "time_ms": np.array([-1 if minute < 0 else int(minute * MINUTE) for minute in minutes]),
        "answered": np.array(answered),
    }
    return replace(requests_of(questions, [[]] * len(rows)), **arrays)


LOG = asked(
    (1, 0.0, "国考准考证怎么下载", True),  # 0: row 3 asks again
    (1, 0.5, "国考准考证怎么下载 ", True),  # 1: row 3, too; the same query is no re-search of row 0
    (1, 1.0, "珠海地图", True),  # 2: other needs follow
    (1, 4.0, "国考准考证手机下载", False),  # 3: no answer was shown, so no label
    (2, 0.0, "国考准考证号码", True),  # 4: another user
    (1, 13.9, "国考准考证号码", True),  # 5: last; 9.9 minutes after row 3, 13.9 after row 0
    (3, 0.0, "饺子怎么煮", True),  # 6: at the edge
    (3, 10.0, "饺子怎么煮好吃", True),  # 7: a second too early for row 8
    (3, 20.02, "饺子怎么煮", False),  # 8
    (NOBODY, 0.0, "饺子", True),  # 9: no user
    (4, -1.0, "饺子", True),  # 10: no time
    (5, 2.0, "iPhone 15 价格", True),  # 11: row 12 at the same time is not later
    (5, 2.0, "iPhone 16 价格", True),  # 12
)
LABELS = [1, 1, 0, -1, 0, 0, 1, 0, -1, -1, -1, 0, 0]


def test_the_rule_by_hand() -> None:
    found = find_re_searches(LOG)
    assert found.label.tolist() == LABELS
    assert found.next_row.tolist() == [3, 3, -1, -1, -1, -1, 7, -1, -1, -1, -1, -1, -1]
    assert find_re_searches(LOG, minutes=3.4).label.tolist()[:2] == [0, 0]
    assert find_re_searches(LOG, minutes=3.5).label.tolist()[:2] == [0, 1]
    assert find_re_searches(LOG, similarity=0.76).label.tolist()[:2] == [0, 0]
    assert find_re_searches(LOG, minutes=10.1).label.tolist()[7] == 1
    nothing = find_re_searches(LOG.take(np.zeros(0, np.int64)))
    assert len(nothing.label) == 0


def test_the_order_of_rows_does_not_matter() -> None:
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(LOG))
        assert find_re_searches(LOG.take(order)).label.tolist() == [LABELS[i] for i in order]


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("国考准考证怎么下载", "国考准考证手机下载", 12 / 16),  # sets of 8 characters that share 6
        ("饺子", "饺子怎么煮", 4 / 7),
        ("珠海长隆", "北京地铁", 0),
        ("iPhone 15", "iphone 16", 2 / 4),  # words, not letters
        ("ＫＬ饺子", "kl 饺 子", 1),
        ("", "饺子", 0),
    ],
)
def test_similarity_of_queries(first: str, second: str, wanted: float) -> None:
    assert query_similarity(first, second) == query_similarity(second, first) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"minutes": 0}, "minutes must be above 0, not 0"),
        ({"minutes": float("nan")}, "minutes must be above 0, not nan"),
        ({"similarity": 0}, "similarity must be above 0 and at most 1, not 0"),
        ({"similarity": 1.5}, "similarity must be above 0 and at most 1, not 1.5"),
    ],
)
def test_limits_out_of_range(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_re_searches(LOG, **limits)


def search(search_idx: int, query: str, seconds: int) -> dict[str, Any]:
    """A search of user 2, some seconds after the answers of `TABLES`."""
    row = TABLES["search_test"][0]
    details = [shown | {"search_timestamp": 1732667616 + seconds} for shown in row["search_result_details_with_idx"]]
    return row | {"search_idx": search_idx, "query": query, "user_idx": 2, "search_result_details_with_idx": details}


def test_all_tables_of_searches_count(tmp_path: Path) -> None:
    """User 2 has the answers to 650 and 8 at once, then searches in another table, whose search_idx is 8, too."""
    tables = {**TABLES, "search_test": [search(8, "补课有用不", 60), search(7, "kl 饺子馅", 660)]}
    folder = str(write_jsonl(tmp_path / "data", tables))
    assert read_re_searches(open_source(folder)) == {"6685": 0, "650": 1, "8": 0, "9": 0}
    assert read_re_searches(open_source(folder), minutes=11)["8"] == 1
    with pytest.raises(UsageError, match=r"minutes 31 is longer .* \(log.session_gap_s=1800\)"):
        read_re_searches(open_source(folder), minutes=31)
    alone = {name: rows for name, rows in TABLES.items() if not name.startswith("search")}
    assert set(read_re_searches(open_source(str(write_jsonl(tmp_path / "alone", alone)))).values()) == {0}


def test_the_authors_own_rows(shared: Path) -> None:
    """Ten rows, three answers: each user read the answer, one asked about the same exam three minutes later."""
    source = open_source(str(shared / "data" / "qilin_toy"))
    feedback = read_feedback(source)
    assert feedback.ids == ["6685", "3638", "949"]
    assert {name: flags.tolist() for name, flags in feedback.flags.items()} == {
        "is_like_clk": [0, 0, 0],
        "is_content_clk": [1, 1, 1],
        "is_onebox_trace_clk": [0, 0, 0],
        "is_experience_clk": [0, 0, 0],
    }
    assert read_re_searches(source) == {"6685": 0, "3638": 1, "949": 0}
