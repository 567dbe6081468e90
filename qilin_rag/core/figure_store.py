"""Keep figures that take long to make in the cache folder, so that only what has changed is computed again.

A figure is found by the hash of all that it is made of. The source of this package and the version of numpy are a part
of it, so that no other version of the program uses it. Each figure has a checksum; a damaged one counts as unknown.
Without a file that can be read and written, figures are only computed again.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Self, TypeVar

import filelock
import numpy as np

from qilin_rag.core.cache import KINDS, cache_dir, make_room
from qilin_rag.core.environment import source_sha256

logger = logging.getLogger(__name__)

T = TypeVar("T")
_WAIT_S = 30.0  # how long to wait for another process that writes
_MOST_KEYS = 500  # in one query; SQLite allows 999 variables in old builds
_MOST_BYTES = 2 * 10**9  # of all figures; the oldest go first
_CHECKSUM_BYTES = 16


class FigureStore:
    """Figures by key in one SQLite file, which several processes may use. Use it in a `with` block."""

    def __init__(self) -> None:
        """Name the file, which the first read or write opens."""
        self._connection: sqlite3.Connection | None = None
        self._is_broken, self._has_new = False, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        if self._has_new:
            make_room()

    def get(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the known figures among these keys, from `figure_key`."""
        wanted = list(keys)

        def read(connection: sqlite3.Connection) -> dict[bytes, bytes]:
            found: dict[bytes, bytes] = {}
            for start in range(0, len(wanted), _MOST_KEYS):
                some = wanted[start : start + _MOST_KEYS]
                places = ",".join("?" * len(some))
                found.update(connection.execute(f"SELECT key, figure FROM figures WHERE key IN ({places})", some))
            return found

        known = self._do(read) or {}
        return {key: row[_CHECKSUM_BYTES:] for key, row in known.items() if _is_whole(key, row)}

    def put(self, figures: Mapping[bytes, bytes]) -> None:
        """Keep figures under their keys; all or none of them are written."""
        rows = [(key, _checksum(key, figure) + figure) for key, figure in figures.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO figures VALUES (?, ?)", rows)
            if _used_bytes(connection) > _MOST_BYTES:
                half = "SELECT rowid FROM figures ORDER BY rowid LIMIT (SELECT COUNT(*) / 2 FROM figures)"
                connection.execute(f"DELETE FROM figures WHERE rowid IN ({half})")

        if rows:
            self._do(write)
            self._has_new = True

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._is_broken:
            return None
        try:
            if self._connection is None:
                self._connection = _connect()
            with self._connection:
                return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            self._is_broken = True
            logger.warning("figures can't be kept in %s: %s; they are computed again each time", _path(), error)
            if getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
                self._remove()
            return None

    def _remove(self) -> None:
        """Remove a damaged file, so that the next command begins a new one."""
        self._close()
        for suffix in ("-wal", "-shm", ""):
            try:
                _path().with_name(f"{_path().name}{suffix}").unlink(missing_ok=True)
            except OSError as error:
                logger.debug("%s can't be removed: %s", _path(), error)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_CURRENT: ContextVar[FigureStore | None] = ContextVar("figure store", default=None)


@contextmanager
def kept_figures() -> Iterator[None]:
    """Keep figures in the cache folder, and take those that are there from it, while the block lasts.

    >>> current_store() is None
    True
    >>> with kept_figures():
    ...     current_store() is None
    False
    """
    if _CURRENT.get() is not None:
        yield
        return
    with FigureStore() as store:
        token = _CURRENT.set(store)
        try:
            yield
        finally:
            _CURRENT.reset(token)


def current_store() -> FigureStore | None:
    """Return the store of the innermost `kept_figures` block; None outside of one."""
    return _CURRENT.get()


def figure_key(*made_of: Hashable) -> bytes:
    """Return the key of a figure.

    Args:
        made_of: What the figure is made of, told apart by its `repr`.
    """
    return hashlib.blake2b(repr((_program(), *made_of)).encode("utf-8", "surrogatepass"), digest_size=32).digest()


@cache
def _program() -> str:
    return f"{source_sha256()} numpy {np.__version__}"


def _checksum(key: bytes, figure: bytes) -> bytes:
    return hashlib.blake2b(key + figure, digest_size=_CHECKSUM_BYTES).digest()


def _is_whole(key: bytes, row: object) -> bool:
    return isinstance(row, bytes) and row[:_CHECKSUM_BYTES] == _checksum(key, row[_CHECKSUM_BYTES:])


def _used_bytes(connection: sqlite3.Connection) -> int:
    [[n_pages], [n_free], [page_bytes]] = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return int((n_pages - n_free) * page_bytes)


def _path() -> Path:
    return cache_dir() / KINDS["figures"].place


def _connect() -> sqlite3.Connection:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_WAIT_S)
    try:
        with filelock.FileLock(f"{path}.lock", timeout=_WAIT_S):  # SQLite doesn't wait if two processes turn on WAL
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS figures (key BLOB PRIMARY KEY, figure BLOB NOT NULL)")
    except BaseException:
        connection.close()
        raise
    return connection
