"""Checksums of files that are kept: one rule that tells what was damaged, and takes no time where nothing changed.

A file whose size and time of change are those that were recorded is not read: whatever writes to it changes its time.
One with another time (copied, touched) is hashed once, and gets its time back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """Return the SHA-256 of what is in a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_record(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Return what a file is known by later: `sha256` (its hash, taken now if not given), `n_bytes`, `mtime_ns`."""
    found = path.stat()
    return {"sha256": sha256 or file_digest(path), "n_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def is_as_recorded(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a file is the one of a `file_record`.

    Raises:
        OSError: if it can't be read.
    """
    found = path.stat()
    if (found.st_size, found.st_mtime_ns) == (record["n_bytes"], record["mtime_ns"]):
        return True
    if found.st_size != record["n_bytes"] or file_digest(path) != record["sha256"]:
        return False
    with suppress(OSError):  # a file that may not be written to is hashed each time
        os.utime(path, ns=(found.st_atime_ns, record["mtime_ns"]))
    return True
