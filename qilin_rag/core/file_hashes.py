"""SHA-256 of files: a large file is read once, then recognised by its path, size, inode and times."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from qilin_rag.core.cache import cache_dir
from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import write_text

logger = logging.getLogger(__name__)
_KEPT_FROM_BYTES = 1 << 26
_SAID_FROM_BYTES = 1 << 32
_SETTLED_AFTER_NS = 2 * 10**9  # a younger file may change again within one tick of the file system's clock


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's whole content.

    The hash of a large file is stored in the cache folder. It is used again while the file that `path` leads to has the
    same size, inode, modification time and inode change time. The last detects a program that rewrites a file and
    restores its modification time.
    """
    real = path.resolve()
    state = _state(real)
    if state[0] < _KEPT_FROM_BYTES:
        return _read(real)
    record = _kept().get(str(real))
    if isinstance(record, list) and record[:-1] == state:
        return str(record[-1])
    if state[0] >= _SAID_FROM_BYTES:
        logger.info("hashing %s (%.0f GB), once", path, state[0] / 1e9)
    digest = _read(real)
    if _state(real) == state and time.time_ns() - max(state[1:3]) > _SETTLED_AFTER_NS:
        with suppress(OSError, QilinError):  # without a writable cache, hashing only takes longer
            _place().parent.mkdir(parents=True, exist_ok=True)
            write_text(_place(), json.dumps(_kept() | {str(real): [*state, digest]}, indent=0) + "\n")
    return digest


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _place() -> Path:
    return cache_dir() / "file_hashes.json"


def _kept() -> dict[str, Any]:
    try:
        kept = json.loads(_place().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
