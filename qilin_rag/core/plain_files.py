"""Read files of a run directory, which may come from a stranger: no link is followed, nothing hangs, memory is bounded.

A pipe or a device would make a reader wait or read forever, and a link could lead to any file of the machine. The check
is of the opened file itself, so that nobody can exchange it in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO

from qilin_rag.core.errors import UsageError

MOST_BYTES = 32 << 20
"""The most bytes of a line, and of a file that is read whole: some ten times the largest prompt that an LLM reads."""
_BATCH_BYTES = 1 << 20
FileState = tuple[int, ...] | None
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_plain(path: Path) -> BufferedReader:
    """Open a file of a run directory to read it.

    Args:
        path: The file. The folders above it may be links: the user named them.

    Raises:
        UsageError: if it is a link, a folder, a pipe or a device.
        OSError: if it does not exist or can't be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):  # a device may act when it is opened
        raise _not_plain(path)
    file = open(path, "rb", opener=lambda name, _: os.open(name, _FLAGS))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _not_plain(path)
    return file


def read_plain(path: Path) -> bytes:
    """Return the content of a file of a run directory.

    Args:
        path: The file.

    Raises:
        UsageError: if it is not a plain file, or larger than `MOST_BYTES`.
        OSError: if it does not exist or can't be read.
    """
    with open_plain(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES >> 20} MB, too large for its kind; move it away")
    return content


def file_state(path: Path) -> FileState:
    """Return what changes if a file does: its inode, size and times; None if it does not exist.

    Args:
        path: The file. A link is not followed.
    """
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_plain(path: Path) -> bool:
    """Return whether a path is a file that `open_plain` opens.

    Args:
        path: The file.
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def batches_of_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[list[bytes], bool]]:
    """Yield the lines of an open file without their ends, many at a time, and whether the last of them has an end.

    Args:
        path: The file's name, for the error.
        file: The file.

    Raises:
        UsageError: if a line is longer than `MOST_BYTES`; the error names its number.
    """
    number, rest = 1, b""
    while piece := file.read(_BATCH_BYTES):
        whole, end, piece = piece.rpartition(b"\n")
        if end:
            lines = (rest + whole).split(b"\n")
            yield lines, True
            number, rest = number + len(lines), piece
        else:
            rest += piece
        if len(rest) > MOST_BYTES:
            raise UsageError(f"{path}, line {number}: longer than {MOST_BYTES >> 20} MB; correct or remove the line")
    if rest:
        yield [rest], False


def _not_plain(path: Path) -> UsageError:
    what = "a link" if path.is_symlink() else "not a plain file"
    return UsageError(f"{path} is {what}, which is not read in a run directory; move it away")
