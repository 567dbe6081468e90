"""Resume builds after a stop: in a folder beside the one to be written, with a checksum for each part.

One process at a time builds in the folder. If it is killed, or the disk is full, the next build of the same thing uses
what it left.
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
    """Yield the folder in which `folder` is built, for one process at a time: another waits until this one has ended.

    The system releases the lock when the process dies.
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
        Path(lock.lock_file).unlink(missing_ok=True)  # under lock: who waits sees it and makes another
        lock.release()


def kept_part(folder: Path, name: str, write: Callable[[Path], object]) -> bool:
    """Write the part `name` of a build unless it is whole already; return whether it was written.

    `write` gets the path to write to. The part gets its name only when it is whole, and its checksum beside it; a part
    that was changed since is written again. Several threads may write different parts.
    """
    return kept_parts(folder, [name], write)


def kept_parts(folder: Path, names: Sequence[str], write: Callable[..., object]) -> bool:
    """Do the same as `kept_part` for files that are made together: `write` gets a path for each."""
    if all(is_whole(folder, name) for name in names):
        return False
    with ExitStack() as stack:
        write(*(stack.enter_context(atomic_path(folder / name)) for name in names))
    for name in names:
        replace_text(folder / f"{name}{_CHECKSUM}", file_digest(folder / name))
    return True


def is_whole(folder: Path, name: str) -> bool:
    """Return whether a part exists as it was written."""
    try:
        return (folder / f"{name}{_CHECKSUM}").read_text(encoding="ascii") == file_digest(folder / name)
    except (FileNotFoundError, ValueError):
        return False


def drop_part(folder: Path, name: str) -> None:
    """Remove a part that is not needed any more."""
    for path in (folder / f"{name}{_CHECKSUM}", folder / name):
        path.unlink(missing_ok=True)


def drop_temporary(folder: Path) -> None:
    """Remove half-written files of a process that was killed, or that outlived the process it wrote for."""
    for path in folder.glob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def drop_checksums(folder: Path) -> None:
    """Remove the checksums of the parts, once another file holds them."""
    for path in folder.glob(f"*{_CHECKSUM}"):
        path.unlink(missing_ok=True)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a build in order, without checksums."""
    return sorted(path for path in folder.iterdir() if path.suffix not in (_CHECKSUM, TEMPORARY))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, from the checksum beside it if this build has just written both."""
    checksum = path.with_name(f"{path.name}{_CHECKSUM}")
    return checksum.read_text(encoding="ascii") if checksum.exists() else file_digest(path)
