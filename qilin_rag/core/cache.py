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
from qilin_rag.core.files import expanded, is_writer_running

try:
    import fcntl
except ImportError:  # Windows, which removes no open file
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LIMIT = "QILIN_RAG_CACHE_GB"
_LIMIT_GB = 100.0
_UNFINISHED_AFTER_S = 3600.0  # what is younger may be written at the moment, if nothing else tells
_WAIT_S = 30.0  # for another process that writes
_LOOK_S = 0.01
_MOST_LOOKS = 20
KindName = Literal["notes", "indexes", "vectors", "responses", "hashes", "servers"]


class Kind(NamedTuple):
    """One kind of what is kept: where, and what; `names` are those of entries below `place`, of folders with a `/`."""

    place: str
    what: str
    names: str = ""
    costs_money: bool = False


KINDS: dict[KindName, Kind] = {
    "notes": Kind("notes", "notes converted for random access", r"\.?[0-9a-f]{24}(-\w+|\.\S+\.tmp)?/"),
    "indexes": Kind("indexes", "indexes of retrievers", r"\.?[^/]+-[0-9a-f]{24}((-building(-old)?)?/|-building\.lock)"),
    "vectors": Kind(
        "vectors",
        "vectors of texts, for BERTScore and dcn-v2",
        r"[^/]+-[0-9a-f]{16}/\.?[0-9a-f]{16}\.(safetensors|part)(\..+)?"
        r"|\.?[0-9a-f]{24}(-[0-9a-f]+)?\.(npy|lock)(\..+tmp)?",
    ),
    "responses": Kind("responses.sqlite", "answers of LLMs, which were paid for", costs_money=True),
    "hashes": Kind("file_hashes.json", "hashes of large files"),
    "servers": Kind("servers", "logs of servers that were started", r"(?![.-])[\w.-]{1,48}(?<![.-])\.log"),
}


class Entry(NamedTuple):
    """One thing that is kept: a file or a folder. `used` is in seconds since 1970."""

    kind: KindName
    path: Path
    n_bytes: int
    used: float
    fault: str = ""  # why it can't be removed


class Cleared(NamedTuple):
    """Entries that were removed, with the bytes they gave back, and those left: by a `fault`, else they are in use."""

    removed: list[Entry]
    left: list[Entry]


def cache_dir() -> Path:
    """Return the folder of what is kept between runs: $QILIN_RAG_CACHE, else the user's cache folder."""
    named = os.environ.get("QILIN_RAG_CACHE")
    return expanded(named) if named else platformdirs.user_cache_path("qilin_rag")


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
            _share(descriptor)
        except OSError:  # a file system without locks, or it is being removed
            os.close(descriptor)
            raise
        weakref.finalize(by, os.close, descriptor)


def _share(descriptor: int) -> None:
    """Lock an open file for use; who looks whether it is in use holds it for a moment."""
    for _ in range(_MOST_LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        time.sleep(_LOOK_S)
    raise BlockingIOError


def make_room() -> None:
    """Remove what was not used for longest until all is within the limit; never what is in use or cost money.

    If that alone is more than the limit, removing the rest would not bring the cache within it: the rest has the limit.
    """
    try:
        limit = limit_bytes()
    except UsageError as error:  # said before the work began, by whoever asked for it
        logger.warning("%s; nothing is removed from the cache", error)
        return
    found = entries()
    n_fixed = sum(entry.n_bytes for entry in found)
    if n_fixed <= limit:
        return
    removable = [entry for entry in found if entry.n_bytes and _is_removable(entry)]
    removable.sort(key=lambda entry: entry.n_bytes <= limit)  # what can never fit goes first
    n_removable = sum(entry.n_bytes for entry in removable)
    n_fixed -= n_removable
    for entry in removable:
        if n_removable <= (limit - n_fixed if n_fixed <= limit else limit):
            break
        n_removable -= entry.n_bytes
        try:
            _remove(entry)
        except OSError:
            n_fixed += entry.n_bytes
        else:
            logger.info("the cache is full (%s): removed %s", LIMIT, entry.path)
    if n_fixed + n_removable > limit:
        logger.warning(
            "the cache %s takes %.1f GB more than %s allows: %.1f GB are in use, paid for or can't be removed",
            *(cache_dir(), (n_fixed + n_removable - limit) / 1e9, LIMIT, n_fixed / 1e9),
        )


def clear(kinds: Iterable[KindName], unused_for_s: float = 0.0) -> Cleared:
    """Remove what is kept of these kinds, if it was not used for so long; what is in use stays."""
    cleared = Cleared([], [])
    for entry in entries(kinds):
        if unused_for_s and time.time() - entry.used < unused_for_s:
            continue
        try:
            cleared.removed.append(entry._replace(n_bytes=_remove(entry)))
        except (OSError, sqlite3.Error) as error:
            if os.path.lexists(entry.path):  # else it went with another, or another process removed it
                cleared.left.append(entry._replace(fault=_fault(error)))
    return cleared


def _entries_of(name: KindName) -> Iterator[Entry]:
    kind = KINDS[name]
    place = cache_dir() / kind.place
    for path in _below(place, kind.names) if kind.names else [place]:
        found = [each for each in map(_lstat, [path] if kind.names else _with_beside(path)) if each]
        if found and (kind.names or stat.S_ISREG(found[0].st_mode)):  # else it has gone meanwhile, or is not ours
            yield Entry(name, path, sum(map(_size, _with_beside(path))), max(map(_last_use, found)))


def _with_beside(path: Path) -> list[Path]:
    """Where an entry is, and what may belong to it beside it: SQLite's files, the record of a checksum."""
    return [path, *(path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", ".json"))]


def _below(place: Path, names: str, depth: int = 2) -> Iterator[Path]:
    """Yield the files and folders below a folder that are named like this."""
    waiting = [(place, "")]
    while waiting:
        folder, called = waiting.pop(0)
        for path in _listed(folder):
            found = _lstat(path)
            mode = found.st_mode if found else 0
            name = f"{called}{path.name}{'/' * stat.S_ISDIR(mode)}"
            if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and re.fullmatch(names, name):
                yield path
            elif stat.S_ISDIR(mode) and name.count("/") < depth:
                waiting.append((path, name))


def _lstat(path: Path) -> os.stat_result | None:
    """What the system says of a path; None if it is not there, or may not be looked at."""
    with suppress(OSError):
        return path.lstat()
    return None


def _listed(folder: Path) -> list[Path]:
    """List a folder; nothing if it is a link or not there, or may not be read."""
    with suppress(OSError):
        if not folder.is_symlink():
            return sorted(folder.iterdir())
    return []


def _last_use(found: os.stat_result) -> float:
    return found.st_mtime if stat.S_ISDIR(found.st_mode) else max(found.st_mtime, found.st_atime)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links and what has gone meanwhile count as nothing."""
    found = _lstat(path)
    if found and stat.S_ISREG(found.st_mode):
        return found.st_size
    return sum(map(_size, _listed(path))) if found and stat.S_ISDIR(found.st_mode) else 0


def _remove(entry: Entry) -> int:
    """Remove an entry and return how many bytes that gives back; what refuses is an OSError or a sqlite3.Error."""
    if KINDS[entry.kind].costs_money:
        _empty_database(entry.path)
        return entry.n_bytes if sum(map(_size, _with_beside(entry.path))) < entry.n_bytes else 0
    with _alone(entry.path), _written_by_nobody(entry.path):
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            for path in reversed(_with_beside(entry.path)):
                if not path.is_symlink():
                    path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder of a model's vectors, once it is empty
        if entry.path.parent != cache_dir() / KINDS[entry.kind].place and KINDS[entry.kind].names:
            entry.path.parent.rmdir()
    return entry.n_bytes


def _is_removable(entry: Entry) -> bool:
    if KINDS[entry.kind].costs_money:
        return False
    with suppress(OSError), _alone(entry.path), _written_by_nobody(entry.path):
        return True
    return False


def _fault(error: OSError | sqlite3.Error) -> str:
    """Why something can't be removed; nothing if a process uses it, or has changed it meanwhile."""
    of_use = (BlockingIOError, filelock.Timeout, FileNotFoundError, *([PermissionError] if fcntl is None else []))
    return "" if isinstance(error, of_use) else str(getattr(error, "strerror", None) or error)


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
            used = _last_use(os.fstat(descriptor))
            if isinstance(error, BlockingIOError) or time.time() - used < _UNFINISHED_AFTER_S:
                raise BlockingIOError from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _written_by_nobody(path: Path) -> Iterator[None]:
    """Hold the lock of a build, which goes with what is built; a BlockingIOError or Timeout if a process writes."""
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
    """Whether a process may be writing this unfinished thing: its name says which, else its last change counts."""
    if path.suffix == ".lock" or not (path.name.startswith(".") or path.suffix == ".part"):
        return False
    if (is_running := is_writer_running(path)) is not None:
        return is_running
    with suppress(OSError):
        changes = [path.lstat().st_mtime, *(below.lstat().st_mtime for below in path.rglob("*"))]
        return time.time() - max(changes) < _UNFINISHED_AFTER_S
    return True  # it changes at the moment


def _empty_database(path: Path) -> None:
    """Remove all rows and give the space back; other processes may go on with the file."""
    with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'responses'").fetchone():
            connection.execute("DELETE FROM responses")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
