"""Builds that go on where they stopped: a folder beside the one to be written, and parts with checksums in it.

One process at a time builds in the folder. What it leaves when it is killed, or the disk is full, is used by the next
that builds the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from qilin_rag.core.checksums import file_digest
from qilin_rag.core.files import atomic_path, replace_text

logger = logging.getLogger(__name__)
TEMPORARY = ".tmp"
_CHECKSUM = ".sha256"


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """The folder in which `folder` is built, for one process at a time: another waits until this one has ended.

    The lock is free as soon as its process is dead (the system releases it).
    """
    unfinished = folder.with_name(f".{folder.name}-building")
    lock = filelock.FileLock(f"{unfinished}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("another process builds %s; waiting for it", folder)
        lock.acquire()
    try:
        yield unfinished
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it sees that and makes another
        lock.release()


def kept_part(folder: Path, name: str, write: Callable[[Path], object]) -> bool:
    """Have the part `name` of a build whole in the folder: true where `write` wrote it, false where it was there.

    `write` gets a path to write to. The part has its name only once it is whole, and its checksum beside it; a part
    whose content has changed since is written again. Several threads may write different parts.
    """
    return kept_parts(folder, [name], write)


def kept_parts(folder: Path, names: Sequence[str], write: Callable[..., object]) -> bool:
    """As `kept_part`, for files that are made together: `write` gets a path for each."""
    if all(is_whole(folder, name) for name in names):
        return False
    with ExitStack() as stack:
        write(*(stack.enter_context(atomic_path(folder / name)) for name in names))
    for name in names:
        replace_text(folder / f"{name}{_CHECKSUM}", file_digest(folder / name))
    return True


def is_whole(folder: Path, name: str) -> bool:
    """Whether this part is there as it was written."""
    try:
        return (folder / f"{name}{_CHECKSUM}").read_text(encoding="ascii") == file_digest(folder / name)
    except (FileNotFoundError, ValueError):
        return False


def drop_part(folder: Path, name: str) -> None:
    """Remove a part that is needed no more."""
    for path in (folder / f"{name}{_CHECKSUM}", folder / name):
        path.unlink(missing_ok=True)


def drop_temporary(folder: Path) -> None:
    """Remove what was half written by a process that was killed, or that has outlived the one it wrote for."""
    for path in folder.glob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def drop_checksums(folder: Path) -> None:
    """Remove the checksums of the parts, once something else vouches for them."""
    for path in folder.glob(f"*{_CHECKSUM}"):
        path.unlink(missing_ok=True)


def files_of(folder: Path) -> list[Path]:
    """The files of a build in order, without checksums."""
    return sorted(path for path in folder.iterdir() if path.suffix not in (_CHECKSUM, TEMPORARY))


def digest(path: Path) -> str:
    """The SHA-256 of a file, taken from the checksum beside it where this build has just written both."""
    checksum = path.with_name(f"{path.name}{_CHECKSUM}")
    return checksum.read_text(encoding="ascii") if checksum.exists() else file_digest(path)
