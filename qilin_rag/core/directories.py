"""Result folders: found by the fingerprint of their content, and locked by one process at a time for writing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_json, writing
from qilin_rag.core.former import former
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.text import slug

_WRITTEN = (".json", ".jsonl", ".trec", ".log", ".csv")
BATCHES = "batches"
"""The folder of a result's batches (`llms.batch.ledger`)."""
_LOCK = ".lock"
_WAIT_S = 0.3


def find_directory(runs_dir: Path, names: Sequence[str], identity: dict[str, Any], manifest: str) -> Path:
    """Return the folder in `runs_dir` whose result has this identity, else the path of a new one.

    Args:
        runs_dir: The folder of runs.
        names: Readable names, joined to form the name of a new folder.
        identity: The identity to find. A folder's name ends in the first eight digits of its fingerprint.
        manifest: The name of the JSON file in the folder whose key `fingerprint` is compared.
    """
    new_path = runs_dir / "-".join([*map(slug, names), fingerprint(identity)[:8]])
    if new_path.exists():
        return new_path
    for known_hash in (fingerprint(identity), fingerprint(former(identity))):
        for path in sorted(runs_dir.glob(f"*-{known_hash[:8]}/{manifest}")):
            with suppress(UsageError):
                kept_hash = read_json(path).get("fingerprint")
                if not path.parent.is_symlink() and kept_hash in (fingerprint(identity), known_hash):
                    return path.parent
    return new_path


@contextmanager
def locked(path: Path, option: str = "runs_dir (--runs-dir)") -> Iterator[None]:
    """Lock a folder for writing, and create it if it does not exist.

    The system releases the lock of a process that died.

    Args:
        path: The folder.
        option: The setting that names another folder, for the error.

    Raises:
        UsageError: if another process holds the lock, or the folder or a file to be written is a link (which could lead
            anywhere in a folder from somebody else) or a device.
    """
    lock = filelock.FileLock(path / _LOCK, timeout=0)
    if path.is_symlink():
        raise UsageError(f"{path} is a link; move it away, or write elsewhere with {option}")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        for file in path.iterdir():
            if file.is_symlink() or (file.suffix in _WRITTEN and not file.is_file()):
                raise UsageError(f"{file} is a link or not a file; move it away, or write elsewhere with {option}")
        try:
            lock.acquire(timeout=_WAIT_S, poll_interval=_WAIT_S / 10)  # `is_locked` holds it for a moment
        except filelock.Timeout:
            raise UsageError(
                f"{path} is in use by another process; wait for it, or write elsewhere with {option}"
            ) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a folder at this moment; nothing in the folder changes.

    Args:
        path: The folder.
    """
    lock = path / _LOCK
    if lock.is_symlink() or not lock.is_file():
        return False
    if os.name != "posix":
        return _is_held(filelock.FileLock(lock, timeout=0))
    import fcntl

    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # who may not read here can't tell
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError | PermissionError)
    finally:
        os.close(descriptor)
    return False


def _is_held(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False
