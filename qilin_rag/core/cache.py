"""The cache folder: keeps what can be computed again, and paid answers, between runs.

One table lists the kinds of entries. An entry in use is marked (a folder by its modification time, a file by its access
time) and held by its process with a system lock. One size limit over all kinds can therefore remove what was not used
for longest. Nothing outside the folder is ever removed, no link is followed, and files with unknown names are kept.
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
from qilin_rag.core.files import expanded, is_writer_running

try:
    import fcntl
except ImportError:  # Windows, which removes no open file
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LIMIT = "QILIN_RAG_CACHE_GB"
_LIMIT_GB = 100.0
_UNFINISHED_AFTER_S = 3600.0  # a younger file may still be written, unless a lock tells
_WAIT_S = 30.0  # how long to wait for another process that writes
_LOOK_S = 0.01
_MOST_LOOKS = 20
_TABLES = ("responses", "scores", "probes", "figures")  # of the databases
KindName = Literal[
    "notes", "indexes", "vectors", "archives", "exports", "responses", "scores", "figures", "hashes", "servers"
]


class Kind(NamedTuple):
    """A kind of cache entries: its folder, the name patterns below `place` (folders end in `/`), its content."""

    place: str
    what: str
    names: str = ""
    costs_money: bool = False

    @property
    def is_database(self) -> bool:
        """Return whether it is an SQLite file, which is emptied and never removed: processes may have it open."""
        return self.place.endswith(".sqlite")


KINDS: dict[KindName, Kind] = {
    "notes": Kind("notes", "notes converted for random access", r"\.?[0-9a-f]{24}(-\w+|\.\S+\.tmp)?/"),
    "indexes": Kind("indexes", "indexes of retrievers", r"\.?[^/]+-[0-9a-f]{24}((-building(-old)?)?/|-building\.lock)"),
    "vectors": Kind(
        "vectors",
        "vectors of texts, for BERTScore and dcn-v2",
        r"[^/]+-[0-9a-f]{16}/\.?[0-9a-f]{16}\.(safetensors|part)(\..+)?"
        r"|\.?[0-9a-f]{24}(-[0-9a-f]+)?\.(npy|lock)(\..+tmp)?",
    ),
    "archives": Kind("archives", "indexes of archives of images", r"\.?[0-9a-f]{24}(\.\S+\.tmp)?/|[0-9a-f]{24}\.lock"),
    "exports": Kind(
        "exports", "models exported for faster encoding", r"\.?[0-9a-f]{24}(\.\S+\.tmp)?/|[0-9a-f]{24}\.lock"
    ),
    "responses": Kind("responses.sqlite", "answers of LLMs, which cost money", costs_money=True),
    "scores": Kind("scores.sqlite", "scores of rerankers, which cost money or time", costs_money=True),
    "figures": Kind("figures.sqlite", "figures of runs and their comparisons, for tables"),
    "hashes": Kind("file_hashes.json", "hashes of large files"),
    "servers": Kind("servers", "logs of model servers", r"(?![.-])[\w.-]{1,48}(?<![.-])\.log"),
}


class Entry(NamedTuple):
    """A file or folder in the cache. `used` is the time of its last use, in seconds since 1970."""

    kind: KindName
    path: Path
    n_bytes: int
    used: float
    fault: str = ""  # the reason if it can't be removed


class Cleared(NamedTuple):
    """The entries that were removed, the bytes this freed, and the entries left (with a `fault`, or in use)."""

    removed: list[Entry]
    left: list[Entry]


def cache_dir() -> Path:
    """Return the cache folder: $QILIN_RAG_CACHE, else the user's cache folder."""
    named = os.environ.get("QILIN_RAG_CACHE")
    return expanded(named) if named else platformdirs.user_cache_path("qilin_rag")


def limit_bytes() -> int:
    """Return the size limit of the whole cache in bytes: $QILIN_RAG_CACHE_GB in GB (10^9 bytes), else 100 GB.

    Raises:
        UsageError: if the variable is not a number, or is negative.
    """
    value = os.environ.get(LIMIT, "").strip()
    if not value:
        return int(_LIMIT_GB * 1e9)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+", value):
        raise UsageError(f"{LIMIT}={value!r} must be a number of GB, such as 50")
    return int(float(value) * 1e9)


def entries(kinds: Iterable[KindName] = tuple(KINDS)) -> list[Entry]:
    """Return the cache entries of these kinds, the least recently used first."""
    found = [entry for kind in kinds for entry in _entries_of(kind)]
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def in_use(path: Path, by: object) -> None:
    """Mark an entry as used now, and hold it while the object `by` lives, so that no process removes it."""
    with suppress(OSError):  # keep a file's modification time: its checksum record depends on it
        os.utime(path, ns=(time.time_ns(), time.time_ns() if path.is_dir() else path.stat().st_mtime_ns))
    if fcntl is None:
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _share(descriptor)
        except OSError:  # the file system has no locks, or the entry is being removed
            os.close(descriptor)
            raise
        weakref.finalize(by, os.close, descriptor)


def _share(descriptor: int) -> None:
    """Take a shared lock on an open file. A process that checks for use holds the lock for a moment."""
    for _ in range(_MOST_LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        time.sleep(_LOOK_S)
    raise BlockingIOError


def make_room() -> None:
    """Remove the least recently used entries until the cache is within its limit.

    Entries that are in use or cost money are never removed. If these alone exceed the limit, the limit applies to the
    other entries: removing them all would not bring the cache within it.
    """
    try:
        limit = limit_bytes()
    except UsageError as error:  # the caller reported it before the work began
        logger.warning("%s; nothing is removed from the cache", error)
        return
    all_entries = entries()
    n_fixed = sum(entry.n_bytes for entry in all_entries)
    if n_fixed <= limit:
        return
    removable = [entry for entry in all_entries if entry.n_bytes and _is_removable(entry)]
    removable.sort(key=lambda entry: entry.n_bytes <= limit)  # entries that can never fit go first
    n_removable = sum(entry.n_bytes for entry in removable)
    n_fixed -= n_removable
    for entry in removable:
        if n_removable <= (limit - n_fixed if n_fixed <= limit else limit):
            break
        n_removable -= entry.n_bytes
        try:
            _remove(entry)
        except (OSError, sqlite3.Error):
            n_fixed += entry.n_bytes
        else:
            logger.info("the cache is full (%s): removed %s", LIMIT, entry.path)
    if n_fixed + n_removable > limit:
        logger.warning(
            "the cache %s takes %.1f GB more than %s allows: %.1f GB are in use, cost money or can't be removed",
            *(cache_dir(), (n_fixed + n_removable - limit) / 1e9, LIMIT, n_fixed / 1e9),
        )


def clear(kinds: Iterable[KindName], unused_for_s: float = 0.0) -> Cleared:
    """Remove the entries of these kinds that were not used for `unused_for_s` seconds; entries in use stay."""
    cleared = Cleared([], [])
    for entry in entries(kinds):
        if unused_for_s and time.time() - entry.used < unused_for_s:
            continue
        try:
            cleared.removed.append(entry._replace(n_bytes=_remove(entry)))
        except (OSError, sqlite3.Error) as error:
            if os.path.lexists(entry.path):  # else removing another entry or process removed it
                cleared.left.append(entry._replace(fault=_fault(error)))
    return cleared


def _entries_of(name: KindName) -> Iterator[Entry]:
    kind = KINDS[name]
    place = cache_dir() / kind.place
    for path in _below(place, kind.names) if kind.names else [place]:
        found = [each for each in map(_lstat, [path] if kind.names else _with_beside(path)) if each]
        if found and (kind.names or stat.S_ISREG(found[0].st_mode)):  # else it was removed meanwhile, or is not ours
            yield Entry(name, path, sum(map(_size, _with_beside(path))), max(map(_last_use, found)))


def _with_beside(path: Path) -> list[Path]:
    """Return the path of an entry and of its companions: SQLite's files, the record of a checksum."""
    return [path, *(path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", ".json"))]


def _below(place: Path, names: str, depth: int = 2) -> Iterator[Path]:
    """Yield the files and folders below a folder whose names match."""
    waiting = [(place, "")]
    while waiting:
        folder, called = waiting.pop(0)
        for path in _listed(folder):
            status = _lstat(path)
            mode = status.st_mode if status else 0
            name = f"{called}{path.name}{'/' * stat.S_ISDIR(mode)}"
            if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and re.fullmatch(names, name):
                yield path
            elif stat.S_ISDIR(mode) and name.count("/") < depth:
                waiting.append((path, name))


def _lstat(path: Path) -> os.stat_result | None:
    """Return the status of a path; None if it does not exist or may not be read."""
    with suppress(OSError):
        return path.lstat()
    return None


def _listed(folder: Path) -> list[Path]:
    """List a folder; return nothing if it is a link, does not exist or may not be read."""
    with suppress(OSError):
        if not folder.is_symlink():
            return sorted(folder.iterdir())
    return []


def _last_use(status: os.stat_result) -> float:
    return status.st_mtime if stat.S_ISDIR(status.st_mode) else max(status.st_mtime, status.st_atime)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links and removed files count as 0."""
    found = _lstat(path)
    if found and stat.S_ISREG(found.st_mode):
        return found.st_size
    return sum(map(_size, _listed(path))) if found and stat.S_ISDIR(found.st_mode) else 0


def _remove(entry: Entry) -> int:
    """Remove an entry and return the freed bytes; raise OSError or sqlite3.Error if the system refuses."""
    if KINDS[entry.kind].is_database:
        _empty_database(entry.path)
        return entry.n_bytes if sum(map(_size, _with_beside(entry.path))) < entry.n_bytes else 0
    with _alone(entry.path), _written_by_nobody(entry.path):
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            for path in reversed(_with_beside(entry.path)):
                if not path.is_symlink():
                    path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder of a model's vectors, if it is empty now
        if entry.path.parent != cache_dir() / KINDS[entry.kind].place and KINDS[entry.kind].names:
            entry.path.parent.rmdir()
    return entry.n_bytes


def _is_removable(entry: Entry) -> bool:
    if KINDS[entry.kind].costs_money:
        return False
    if KINDS[entry.kind].is_database:
        return True
    with suppress(OSError), _alone(entry.path), _written_by_nobody(entry.path):
        return True
    return False


def _fault(error: OSError | sqlite3.Error) -> str:
    """Return why something can't be removed; return nothing if a process uses it or has just changed it."""
    of_use = (BlockingIOError, filelock.Timeout, FileNotFoundError, *([PermissionError] if fcntl is None else []))
    return "" if isinstance(error, of_use) else str(getattr(error, "strerror", None) or error)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold an entry that no process uses; raise BlockingIOError if one does.

    Without system locks (some network file systems), an entry used within the last hour counts as in use.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            used = _last_use(os.fstat(descriptor))
            if isinstance(error, BlockingIOError) or time.time() - used < _UNFINISHED_AFTER_S:
                raise BlockingIOError from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _written_by_nobody(path: Path) -> Iterator[None]:
    """Hold the lock of a build; raise BlockingIOError or Timeout if a process writes."""
    if _is_being_written(path):
        raise BlockingIOError
    built = re.fullmatch(r"(.+-building)(-old)?", path.name)
    if not built:
        yield
        return
    lock = filelock.FileLock(path.with_name(f"{built[1]}.lock"), timeout=0)
    with lock:
        yield
        Path(lock.lock_file).unlink(missing_ok=True)


def _is_being_written(path: Path) -> bool:
    """Return whether a process may be writing this unfinished file: by its name, else by its last change."""
    if path.suffix == ".lock" or not (path.name.startswith(".") or path.suffix == ".part"):
        return False
    if (is_running := is_writer_running(path)) is not None:
        return is_running
    with suppress(OSError):
        changes = [path.lstat().st_mtime, *(below.lstat().st_mtime for below in path.rglob("*"))]
        return time.time() - max(changes) < _UNFINISHED_AFTER_S
    return True  # it is changing right now


def _empty_database(path: Path) -> None:
    """Remove all rows and free the space; other processes can still use the file."""
    with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table in _TABLES:
                connection.execute(f"DELETE FROM {table}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
