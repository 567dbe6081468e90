"""The cache folder: what can be made again, and answers that were paid for, kept between runs.

One table says what there is. What is used is marked (a folder by its time of change, a file by that of access) and
held by its process with a lock of the system, so that one limit over all kinds can remove what was not used for
longest. Nothing outside the folder is ever removed, no link is followed, and what is not named as we name it stays.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import stat
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import filelock
import platformdirs

from qilin_rag.core.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows, which removes no open file
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LIMIT = "QILIN_RAG_CACHE_GB"
_LIMIT_GB = 100.0
_UNFINISHED_AFTER_S = 3600.0  # what is younger may be written at the moment
_WAIT_S = 30.0  # for another process that writes
KindName = Literal["notes", "indexes", "vectors", "responses", "hashes", "servers"]


class Kind(NamedTuple):
    """One kind of what is kept: where, and what it is; `names` are those of entries below `place` (`*`: any depth)."""

    place: str
    what: str
    names: str = ""
    costs_money: bool = False


KINDS: dict[KindName, Kind] = {
    "notes": Kind("notes", "notes converted for random access", r"\.?[0-9a-f]{24}(-\w+)?"),
    "indexes": Kind("indexes", "indexes of retrievers", r"\.?[^/]+-[0-9a-f]{24}(-building(\.lock|-old)?)?"),
    "vectors": Kind(
        "vectors",
        "vectors of texts, for BERTScore and dcn-v2",
        r"[^/]+-[0-9a-f]{16}/\.?[0-9a-f]{16}\.(safetensors|part)(\..+)?"
        r"|\.?[0-9a-f]{24}(-[0-9a-f]+)?\.(npy|lock)(\..+tmp)?",
    ),
    "responses": Kind("responses.sqlite", "answers of LLMs, which were paid for", costs_money=True),
    "hashes": Kind("file_hashes.json", "hashes of large files"),
    "servers": Kind("servers", "logs of servers that were started", r"[^/]+\.log"),
}


class Entry(NamedTuple):
    """One thing that is kept: a file or a folder. `used` is in seconds since 1970."""

    kind: KindName
    path: Path
    n_bytes: int
    used: float


class Cleared(NamedTuple):
    """Entries that were removed, and those left because a process uses them or they can't be removed."""

    removed: list[Entry]
    left: list[Entry]


def cache_dir() -> Path:
    """Return the folder of what is kept between runs: $QILIN_RAG_CACHE, else the user's cache folder."""
    named = os.environ.get("QILIN_RAG_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("qilin_rag")


def limit_bytes() -> int:
    """Return what the whole cache may take: $QILIN_RAG_CACHE_GB in GB (10^9 bytes), else 100.

    Raises:
        UsageError: if the variable is not a number, or is negative.
    """
    given = os.environ.get(LIMIT, "").strip()
    if not given:
        return int(_LIMIT_GB * 1e9)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+", given):
        raise UsageError(f"{LIMIT}={given!r} must be a number of GB, such as 50")
    return int(float(given) * 1e9)


def entries(kinds: Iterable[KindName] = tuple(KINDS)) -> list[Entry]:
    """Return what is kept of these kinds, what was not used for longest first."""
    found = [entry for kind in kinds for entry in _entries_of(kind)]
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def in_use(path: Path, by: object) -> None:
    """Mark an entry as used now, and hold it for as long as the object `by` lives: no process removes it."""
    with suppress(OSError):  # the time of change of a file is what its checksum goes by
        os.utime(path, ns=(time.time_ns(), time.time_ns() if path.is_dir() else path.stat().st_mtime_ns))
    if fcntl is None:
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # a file system without locks, or it is being removed
            os.close(descriptor)
            raise
        weakref.finalize(by, os.close, descriptor)


def make_room() -> None:
    """Remove what was not used for longest until all is within the limit; never what is in use or cost money."""
    try:
        limit = limit_bytes()
    except UsageError as error:  # said before the work began, by whoever asked for it
        logger.warning("%s; nothing is removed from the cache", error)
        return
    found = entries()
    excess = sum(entry.n_bytes for entry in found) - limit
    if excess <= 0:
        return
    n_freed = 0
    for entry in found:
        if n_freed >= excess:
            break
        if entry.n_bytes and not KINDS[entry.kind].costs_money and _remove(entry):
            n_freed += entry.n_bytes
            logger.info("the cache is full (%s): removed %s", LIMIT, entry.path)
    if n_freed < excess:
        logger.warning(
            "the cache %s takes %.1f GB more than %s allows; what is left is in use, or answers that were paid for",
            cache_dir(),
            (excess - n_freed) / 1e9,
            LIMIT,
        )


def clear(kinds: Iterable[KindName], unused_for_s: float = 0.0) -> Cleared:
    """Remove what is kept of these kinds, if it was not used for so long; what is in use stays."""
    cleared = Cleared([], [])
    for entry in entries(kinds):
        if time.time() - entry.used >= unused_for_s:
            (cleared.removed if _remove(entry) else cleared.left).append(entry)
    return cleared


def _entries_of(name: KindName) -> Iterator[Entry]:
    kind = KINDS[name]
    place = cache_dir() / kind.place
    if not kind.names:
        with suppress(OSError):
            if files := _with_beside(place):
                yield Entry(name, place, sum(map(_size, files)), max(map(_last_use, files)))
        return
    for path in _below(place, kind.names):
        with suppress(OSError):  # it has gone meanwhile
            yield Entry(name, path, sum(map(_size, _with_beside(path))), _last_use(path))


def _with_beside(path: Path) -> list[Path]:
    """An entry, and what belongs to it beside it: SQLite's files, the record of a checksum."""
    beside = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", ".json"))
    return [each for each in (path, *beside) if each.exists() and not each.is_symlink()]


def _last_use(path: Path) -> float:
    found = path.lstat()
    return found.st_mtime if stat.S_ISDIR(found.st_mode) else max(found.st_mtime, found.st_atime)


def _below(place: Path, names: str, depth: int = 2) -> Iterator[Path]:
    """Yield the entries below a folder that are named like this, without links."""
    waiting = [] if place.is_symlink() else [(path, path.name) for path in _listed(place)]
    while waiting:
        path, name = waiting.pop(0)
        if path.is_symlink():
            continue
        if re.fullmatch(names, name):
            yield path
        elif path.is_dir() and name.count("/") < depth - 1:
            waiting += [(below, f"{name}/{below.name}") for below in _listed(path)]


def _listed(folder: Path) -> list[Path]:
    """List a folder; nothing if it is not there, or may not be read."""
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as nothing."""
    found = path.lstat()
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    return sum(_size(each) for each in path.iterdir()) if stat.S_ISDIR(found.st_mode) else 0


def _remove(entry: Entry) -> bool:
    """Whether an entry could be removed; not if a process uses it, or may be writing it."""
    if KINDS[entry.kind].costs_money:
        return _empty_database(entry.path)
    is_unfinished = entry.path.name.startswith(".") or entry.path.suffix == ".part"
    if is_unfinished and time.time() - _last_change(entry.path) < _UNFINISHED_AFTER_S:
        return False
    try:
        with _alone(entry.path), _built_by_nobody(entry.path):
            if entry.path.is_dir():
                shutil.rmtree(entry.path)
            else:
                for path in reversed(_with_beside(entry.path)):
                    path.unlink()
    except (OSError, filelock.Timeout):
        return False
    with suppress(OSError):  # the folder of a model's vectors, once it is empty
        if entry.path.parent != cache_dir() / KINDS[entry.kind].place and KINDS[entry.kind].names:
            entry.path.parent.rmdir()
    return True


def _last_change(path: Path) -> float:
    """Return the time of the last change; of a folder, that of anything in it."""
    below = path.rglob("*") if path.is_dir() else ()
    with suppress(OSError):
        return max([path.lstat().st_mtime, *(each.lstat().st_mtime for each in below)])
    return time.time()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold an entry that nobody uses; a BlockingIOError if somebody does.

    Where there are no locks (some file systems of networks), what was used within the hour counts as in use.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError) or time.time() - _last_use(path) < _UNFINISHED_AFTER_S:
                raise
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _built_by_nobody(path: Path) -> Iterator[None]:
    """Hold the lock of a build, which goes with what is built; a Timeout if a process has it."""
    if not path.name.endswith("-building"):
        yield
        return
    lock = filelock.FileLock(f"{path}.lock", timeout=0)
    with lock:
        yield
        Path(lock.lock_file).unlink(missing_ok=True)


def _empty_database(path: Path) -> bool:
    """Remove all rows and give the space back; other processes may go on with the file."""
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
            connection.execute("DELETE FROM responses")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        logger.warning("%s can't be emptied: %s", path, error)
        return False
    return True
