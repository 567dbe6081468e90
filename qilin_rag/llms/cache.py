"""The response cache: paid answers by their request, in one SQLite file for all runs of this machine."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import filelock
from pydantic import ValidationError

from qilin_rag.core.hashing import json_hash
from qilin_rag.core.types import Completion

logger = logging.getLogger(__name__)

_WAIT_S = 30.0  # how long to wait for another process that writes
T = TypeVar("T")


def request_key(request: Mapping[str, Any]) -> str:
    """Return the hash of everything that decides an answer: another value of any field gives another key."""
    return json_hash(request, sort_keys=True, ensure_ascii=False)


class ResponseCache:
    """Completions by `request_key`; several processes may use one file.

    If the file can't be read or written, this is logged once; answers are then not stored, and nothing else is lost.
    """

    def __init__(self, path: Path, ask_again: bool = False) -> None:
        """Set the file, which the first request opens. With `ask_again`, store answers but return none."""
        self._path = path
        self._ask_again = ask_again
        self._connection: sqlite3.Connection | None = None
        self._is_broken = False

    def get(self, key: str) -> Completion | None:
        """Return the completion of an equal earlier request; None if there is none."""
        if self._ask_again:
            return None
        query = "SELECT completion FROM responses WHERE key = ?"
        row = self._do(lambda connection: connection.execute(query, (key,)).fetchone())
        try:
            return Completion.model_validate_json(row[0]) if row else None
        except ValidationError:  # stored by another version of this program
            return None

    def put(self, key: str, completion: Completion) -> None:
        """Store a completion, replacing the one under this key."""
        row = (key, completion.model_dump_json())
        self._do(lambda connection: connection.execute("INSERT OR REPLACE INTO responses VALUES (?, ?)", row))

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._is_broken:
            return None
        try:
            if self._connection is None:
                self._connection = self._open()
            return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            self._is_broken = True
            logger.warning("answers can't be stored in %s: %s; the run continues without the cache", self._path, error)
            return None

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        with filelock.FileLock(
            f"{self._path}.lock", timeout=_WAIT_S
        ):  # SQLite doesn't wait if two processes turn on WAL
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power failure may lose the last answers, never the file
        connection.execute("CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, completion TEXT NOT NULL)")
        return connection
