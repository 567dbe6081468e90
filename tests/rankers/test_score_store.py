"""Kept scores: one opened file for all reads and writes of a scoring, shared by threads and processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.cache import cache_dir
from qilin_rag.rankers import score_store
from qilin_rag.rankers.score_store import ScoreStore

PAIRS = [(f"问{i % 7}", f"文{i}") for i in range(200)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[sqlite3.Connection]]:
    connections: list[sqlite3.Connection] = []
    connect = score_store._connect

    def counted() -> sqlite3.Connection:
        connections.append(connect())
        return connections[-1]

    monkeypatch.setattr(score_store, "_connect", counted)
    yield connections


def test_the_file_is_opened_once_and_closed_at_the_end(opened: list[sqlite3.Connection]) -> None:
    with ScoreStore({"name": "a"}) as store:
        assert not opened
        assert np.isnan(store.get(PAIRS)).all()
        for i, pair in enumerate(PAIRS):
            store.put([pair], [float(i)])
        assert store.get(PAIRS).tolist() == list(range(len(PAIRS)))
    [connection] = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    with ScoreStore({"name": "b"}) as other:
        assert np.isnan(other.get(PAIRS)).all()


def test_threads_and_processes_share_it(opened: list[sqlite3.Connection]) -> None:
    script = (
        "import sys; from qilin_rag.rankers.score_store import ScoreStore\n"
        "with ScoreStore({'name': 'a'}) as store:\n"
        "    for i in range(300): store.put([('p', str(i))], [i])\n"
    )
    with ScoreStore({"name": "a"}) as store:
        other = subprocess.Popen([sys.executable, "-c", script])

        def put(start: int) -> None:
            for i in range(start, len(PAIRS), 4):
                store.put([PAIRS[i]], [float(i)])

        threads = [threading.Thread(target=put, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert other.wait(60) == 0
        assert store.get(PAIRS).tolist() == list(range(len(PAIRS)))
        assert store.get([("p", str(i)) for i in range(300)]).tolist() == list(range(300))
    assert len(opened) == 1


def test_what_was_put_is_kept_when_the_rest_fails() -> None:
    def broken() -> Any:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError), ScoreStore({"name": "a"}) as store:
        store.put(PAIRS[:1], [0.5])
        broken()
    with ScoreStore({"name": "a"}) as store:
        assert store.get(PAIRS[:1]).tolist() == [0.5]


def test_a_file_that_is_none_is_said_once_and_loses_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    (cache_dir() / "scores.sqlite").parent.mkdir(parents=True, exist_ok=True)
    (cache_dir() / "scores.sqlite").write_text("no database, but long enough to be one" * 100)
    with ScoreStore({"name": "a"}) as store:
        store.put(PAIRS[:1], [0.5])
        assert np.isnan(store.get(PAIRS)).all()
    assert caplog.text.count("scores can't be kept") == 1
