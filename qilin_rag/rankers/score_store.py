"""Keep the scores of query-note pairs on disk, so that no run scores a pair twice."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import filelock
import numpy as np
import numpy.typing as npt

from qilin_rag.core.cache import KINDS, cache_dir
from qilin_rag.core.hashing import json_hash

logger = logging.getLogger(__name__)
T = TypeVar("T")
Pair = tuple[str, str]
Scores = npt.NDArray[np.float64]

_WAIT_S = 30.0  # how long to wait for another process that writes
_MOST_KEYS = 500  # in one query; SQLite allows 999 variables in old builds


class ScoreStore:
    """Scores of pairs by one ranker, in one SQLite file for all rankers of this machine.

    Use it in a `with` block: the file is opened by the first read or write, and closed at the end. Several threads and
    processes may use one file.

    If the file can't be read or written, this is logged once; scores are then not kept, and nothing else is lost.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        """Set what decides a score beside its pair: the identity of the ranker."""
        self._ranker = bytes.fromhex(json_hash(identity, sort_keys=True, ensure_ascii=False))[:16]
        self._is_broken = False
        self._connection: sqlite3.Connection | None = None
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._one_at_a_time:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def get(self, pairs: Sequence[Pair]) -> Scores:
        """Return the score of each pair, NaN if it is not known: (n_pairs,)."""
        keys = [self._key(pair) for pair in pairs]

        def read(connection: sqlite3.Connection) -> dict[bytes, float]:
            found: dict[bytes, float] = {}
            for start in range(0, len(keys), _MOST_KEYS):
                some = keys[start : start + _MOST_KEYS]
                places = ",".join("?" * len(some))
                found.update(connection.execute(f"SELECT key, score FROM scores WHERE key IN ({places})", some))
            return found

        known = self._do(read) or {}
        return np.array([known.get(key, np.nan) for key in keys], np.float64)

    def put(self, pairs: Sequence[Pair], scores: Sequence[float]) -> None:
        """Keep the scores of these pairs; all or none of them are written."""
        rows = [(self._key(pair), float(score)) for pair, score in zip(pairs, scores, strict=True)]
        self._do(lambda connection: connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows))

    def _key(self, pair: Pair) -> bytes:
        query, text = (part.encode("utf-8", "surrogatepass") for part in pair)
        return hashlib.blake2b(self._ranker + struct.pack("<Q", len(query)) + query + text, digest_size=16).digest()

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._one_at_a_time:
            if self._is_broken:
                return None
            try:
                if self._connection is None:
                    self._connection = _connect()
                with self._connection:  # commits, so that a killed run loses nothing
                    return work(self._connection)
            except (sqlite3.Error, OSError) as error:
                self._is_broken = True
                logger.warning("scores can't be kept in %s: %s; the run continues without them", _path(), error)
                return None


class Probed(NamedTuple):
    """A model behind a served name: its number in the order seen, and whether it is new where another one was."""

    number: int
    is_other: bool


def known_probe(name: Mapping[str, Any], scores: Sequence[float], tolerance: float) -> Probed:
    """Return which model a server has under a name, by its scores of fixed pairs.

    Args:
        name: The name, with all that is known of the model.
        scores: Its scores of the fixed pairs.
        tolerance: The largest difference between scores of one model.
    """
    key = json_hash(name, sort_keys=True, ensure_ascii=False)
    try:
        with closing(_connect()) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            seen = connection.execute("SELECT scores FROM probes WHERE name = ? ORDER BY number", (key,)).fetchall()
            for number, (text,) in enumerate(seen):
                if np.allclose(json.loads(text), scores, rtol=0, atol=tolerance):
                    return Probed(number, is_other=False)
            row = (key, len(seen), json.dumps(list(scores)))
            connection.execute("INSERT INTO probes VALUES (?, ?, ?)", row)
            return Probed(len(seen), is_other=bool(seen))
    except (sqlite3.Error, OSError) as error:
        logger.debug("probes can't be kept: %s", error)
        return Probed(0, is_other=False)


def _path() -> Path:
    return cache_dir() / KINDS["scores"].place


def _connect() -> sqlite3.Connection:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False)
    try:
        with filelock.FileLock(f"{path}.lock", timeout=_WAIT_S):  # SQLite doesn't wait if two processes turn on WAL
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS probes (name TEXT, number INTEGER, scores TEXT, PRIMARY KEY (name, number))"
        )
    except BaseException:
        connection.close()
        raise
    return connection
