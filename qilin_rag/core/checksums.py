"""Checksums of stored files: detect damage, at no cost for files that did not change.

A file with its recorded size and modification time is not read: every write changes that time. A file with another time
(copied, touched) is hashed once and then gets its recorded time back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_record(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Return the record that identifies a file later: `sha256` (computed if not given), `n_bytes`, `mtime_ns`."""
    found = path.stat()
    return {"sha256": sha256 or file_digest(path), "n_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def is_as_recorded(path: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a file still matches its `file_record`.

    Raises:
        OSError: if the file can't be read.
    """
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) == (record["n_bytes"], record["mtime_ns"]):
        return True
    if status.st_size != record["n_bytes"] or file_digest(path) != record["sha256"]:
        return False
    with suppress(OSError):  # a read-only file is hashed each time
        os.utime(path, ns=(status.st_atime_ns, record["mtime_ns"]))
    return True
