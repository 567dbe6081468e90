"""Histories of users: every click before the request and none after it, by a slow reading; clocks of both tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.data.clicks import ClickLog, Kind, histories, rows_before
from qilin_rag.data.exposures import Ints, concat, offsets_of
from qilin_rag.data.requests import Requests, last_of_users
from qilin_rag.data.source import open_source
from qilin_rag.rankers.split_log import SplitLog, click_log
from tests.conftest import write_jsonl

KINDS: tuple[Kind, ...] = ("both", "search", "recommendation")


def random_requests(n: int, seed: int, n_users: int = 5, n_notes: int = 12, last_ms: int = 40) -> Requests:
    """Requests of few users, notes and moments, so that much of it coincides; some have no user, and some no time."""
    rng = np.random.default_rng(seed)
    lengths, n_recent = rng.integers(0, 5, n), rng.integers(0, 4, n)
    notes: Ints = np.concatenate([rng.choice(n_notes, k, replace=False) for k in lengths]).astype(np.int64)
    return Requests(
        ids=[f"{seed}-{i}" for i in range(n)],
        queries=[f"q{i}" for i in range(n)],
        is_search=rng.random(n) < 0.5,
        user_idx=rng.integers(-1, n_users, n),
        session_idx=np.full(n, -1),
        source=np.zeros(n, np.int64),
        time_ms=rng.integers(-1, last_ms, n),
        answered=np.zeros(n, bool),
        recent_offsets=offsets_of(n_recent),
        recent=rng.integers(0, n_notes, n_recent.sum()),
        offsets=offsets_of(lengths),
        note_idx=notes,
        clicked=rng.random(len(notes)) < 0.6,
        position=np.full(len(notes), -1),
    )


def slow_history(asked: Requests, row: int, log: Requests, kind: Kind) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """The recorded notes that are older, oldest first; and the logged clicks as pairs of time and notes."""
    user, until = asked.user_idx[row], asked.time_ms[row]
    by_time: dict[int, list[int]] = {}
    for i in range(len(log)):
        is_kind = kind == "both" or log.is_search[i] == (kind == "search")
        if user >= 0 and log.user_idx[i] == user and 0 <= log.time_ms[i] < until and is_kind:
            for at in range(log.offsets[i], log.offsets[i + 1]):
                if log.clicked[at]:
                    by_time.setdefault(int(log.time_ms[i]), []).append(int(log.note_idx[at]))
    logged = [(time, sorted(by_time[time])) for time in sorted(by_time)]
    there = {note for notes in by_time.values() for note in notes}
    recorded = asked.recent[asked.recent_offsets[row] : asked.recent_offsets[row + 1]].tolist()[::-1]
    older = [note for note in recorded if note not in there] if kind == "both" else []
    return older, logged


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_histories_are_what_a_slow_reading_finds(kind: Kind, seed: int) -> None:
    table, asked = random_requests(60, seed), random_requests(30, 100 + seed)
    log = click_log([table], [np.ones(60, bool)])
    past = histories(asked, log, 10**6, kind)
    for row in range(len(asked)):
        span = slice(past.offsets[row], past.offsets[row + 1])
        notes, clicks = past.note_idx[span].tolist(), past.click[span]
        older, logged = slow_history(asked, row, table, kind)
        assert notes[: len(older)] == older
        assert (clicks[: len(older)] == -1).all() and (clicks[len(older) :] >= 0).all()
        rest = notes[len(older) :]
        assert log.time_ms[clicks[len(older) :]].tolist() == [time for time, of in logged for _ in of]
        for _, of in logged:
            assert sorted(rest[: len(of)]) == of
            del rest[: len(of)]
        assert not rest
        for note, click in zip(notes[len(older) :], clicks[len(older) :].tolist(), strict=True):
            at = log.query[click]  # the request that the click was in
            assert log.queries[at] == table.queries[at] and log.is_search[click] == table.is_search[at]
            assert note in table.note_idx[table.offsets[at] : table.offsets[at + 1]]
        latest = histories(asked.take(np.array([row])), log, 3, kind)
        assert latest.note_idx.tolist() == notes[-3:]


def test_no_later_click_changes_a_history() -> None:
    """Nor one of the same millisecond, one of another user, or another request's record."""
    table, asked = random_requests(60, 1), random_requests(30, 2)
    before = histories(asked, click_log([table], [np.ones(60, bool)]), 50)
    for row in np.flatnonzero(asked.time_ms >= 0):
        one = asked.take(np.array([row]))
        future = random_requests(80, 3)
        is_other = future.user_idx != asked.user_idx[row]
        future = replace(future, time_ms=np.where(is_other, future.time_ms, asked.time_ms[row] + future.time_ms % 3))
        log = click_log([table, future], [np.ones(60, bool), np.zeros(80, bool)])
        after = histories(one, log, 50)
        assert after.note_idx.tolist() == before.note_idx[before.offsets[row] : before.offsets[row + 1]].tolist()


def test_rows_before_on_nothing() -> None:
    nothing: Ints = np.zeros(0, np.int64)
    starts, ends = rows_before(nothing, nothing, np.array([1, 2]), np.array([5, -1]))
    assert starts.tolist() == ends.tolist() == [0, 0]
    log = click_log([random_requests(3, 0).take(np.zeros(3, bool))], [np.zeros(0, bool)])
    assert len(log) == 0
    asked = random_requests(5, 0)
    assert histories(asked, log, 9, "search").offsets.tolist() == [0] * 6


def test_the_order_within_a_request_is_not_that_of_ids() -> None:
    one = replace(random_requests(1, 0), user_idx=np.array([0]), time_ms=np.array([5]))
    many = one.with_results(np.array([200]), np.arange(200), np.ones(200, bool), np.full(200, -1))
    notes = click_log([many], [np.ones(1, bool)]).note_idx
    assert abs(np.corrcoef(notes, np.arange(200))[0, 1]) < 0.2


def write_tables(folder: Path) -> Path:
    """One user: a recommendation at 10:00:00, a search at 10:01:00 by Beijing's clock, and others around a test."""
    ten = 1_732_500_000  # true seconds

    def search(idx: int, true_s: int, clicked: dict[int, int]) -> dict[str, Any]:
        items = [
            {"note_idx": note, "position": i + 1, "click": click, "search_timestamp": true_s + 28_800}
            for i, (note, click) in enumerate(clicked.items())
        ]
        return {"search_idx": idx, "user_idx": 7, "query": f"s{idx}", "search_result_details_with_idx": items}

    def recommendation(idx: int, true_s: int, clicked: dict[int, int]) -> dict[str, Any]:
        items = [
            {"note_idx": note, "position": i + 1, "click": click, "request_timestamp": true_s * 1000}
            for i, (note, click) in enumerate(clicked.items())
        ]
        return {"request_idx": idx, "user_idx": 7, "query": "", "rec_result_details_with_idx": items}

    tables = {
        "notes": [{"note_idx": i, "note_title": f"t{i}", "note_content": ""} for i in range(9)],
        "recommendation_train": [recommendation(0, ten, {1: 1, 8: 0}), recommendation(1, ten + 300, {4: 1, 8: 0})],
        "search_train": [search(0, ten + 60, {2: 1, 8: 0})],
        "search_test": [search(1, ten + 120, {3: 1, 8: 0})],
        "recommendation_test": [recommendation(2, ten + 200, {5: 1, 6: 0}), recommendation(3, ten + 180, {5: 1, 6: 0})],
    }
    folder.mkdir()
    for name, rows in tables.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def test_the_clocks_of_both_tables_are_one(tmp_path: Path) -> None:
    log = SplitLog(open_source(str(write_tables(tmp_path / "data"))))
    clicks = log.clicks(["recommendation"], "test")
    asked = log.table("recommendation_test")
    past = histories(asked, clicks, 9)
    assert asked.ids == ["2", "3"]
    assert past.note_idx.tolist() == [1, 2, 3, 5, 1, 2, 3]
    assert past.offsets.tolist() == [0, 4, 7]
    assert clicks.is_search[past.click].tolist() == [False, True, True, False, False, True, True]
    assert clicks.is_train[past.click].tolist() == [True, True, False, False, True, True, False]
    assert [clicks.queries[i] for i in clicks.query[past.click][:3].tolist()] == ["", "s0", "s1"]
    assert histories(asked, clicks, 9, "search").note_idx.tolist() == [2, 3, 2, 3]


def test_the_last_requests_of_users() -> None:
    requests = random_requests(200, 5)
    last = last_of_users(requests)
    users = sorted(set(requests.user_idx.tolist()) - {-1})
    assert sorted(last.user_idx.tolist()) == users
    for user in users:
        rows = [
            i
            for i in range(200)
            if requests.user_idx[i] == user and requests.time_ms[i] >= 0 and requests.n_clicked[i] > 0
        ]
        found = int(np.flatnonzero(last.user_idx == user)[0])
        assert last.time_ms[found] == max(requests.time_ms[i] for i in rows) and last.n_clicked[found]


def test_what_a_log_holds_is_in_its_hash() -> None:
    table = random_requests(40, 0)
    learn = np.ones(40, bool)
    log = click_log([table], [learn])
    assert log.sha256 == click_log([concat([table])], [learn]).sha256
    others: list[ClickLog] = [
        click_log([replace(table, clicked=~table.clicked)], [learn]),
        click_log([replace(table, time_ms=table.time_ms + 1)], [learn]),
        click_log([table], [~learn]),
    ]
    assert len({log.sha256, *(other.sha256 for other in others)}) == 4
