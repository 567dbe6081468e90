"""Read the new lines of a file that another process appends to, in bounded pieces."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from qilin_rag.core.errors import UsageError

MOST_LINE_BYTES = 16 << 20
_PIECE_BYTES = 1 << 16
_KNOWN_BYTES = 64


class Line(NamedTuple):
    """A line without its line break. `number` counts from 1; `start` is its offset in the file."""

    number: int
    start: int
    content: bytes


class Tail:
    """A place in a file of lines, up to which the file was read.

    A half line at the end waits until it is complete. A line of more than 16 MB is skipped, and counted in `skipped`.

    Args:
        path: The file. It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restart()

    def restart(self) -> None:
        """Begin at the start of the file."""
        self.offset = self.n_lines = self.skipped = 0
        self.is_at_end = False
        self._is_in_long_line = self._awaits_break = False
        self._inode: int | None = None
        self._known = b""

    def was_replaced(self) -> bool:
        """Return whether what was read is not there any more: another file, a shorter one, or other content.

        Raises:
            UsageError: if the file is a link or not a file.
        """
        try:
            with _opened(self.path) as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    return self._inode is not None
                file.seek(self.offset - len(self._known))
                return file.read(len(self._known)) != self._known
        except FileNotFoundError:
            return self._inode is not None

    def lines(self, most_bytes: int) -> Iterator[Line]:
        """Yield the new lines. `is_at_end` says afterwards whether there were no more.

        Args:
            most_bytes: Stop after about this many bytes, with a whole line.

        Raises:
            UsageError: if the file is a link or not a file.
        """
        with suppress(FileNotFoundError), _opened(self.path) as file:
            self._inode = os.fstat(file.fileno()).st_ino
            began, left, rest = self.offset, most_bytes, b""
            file.seek(self.offset)
            while piece := file.read(_PIECE_BYTES):
                left -= len(piece)
                *complete, rest = (rest + piece).split(b"\n")
                for content in complete:
                    yield from self._line(content)
                if self._is_in_long_line or len(rest) > MOST_LINE_BYTES:
                    self._is_in_long_line = True
                    self._pass(rest)
                    rest = b""
                if left <= 0 and self.offset > began:
                    self.is_at_end = False
                    return
            if rest and not self._is_in_long_line and _is_whole(rest):
                self._awaits_break = True
                self._pass(rest)
                self.n_lines += 1
                yield Line(self.n_lines, self.offset - len(rest), rest)
        self.is_at_end = True

    def _line(self, content: bytes) -> Iterator[Line]:
        start = self.offset
        self._pass(content + b"\n")
        if self._awaits_break and not content:
            self._awaits_break = False
            return
        self.n_lines += 1
        if self._is_in_long_line or len(content) > MOST_LINE_BYTES:
            self._is_in_long_line = False
            self.skipped += 1
            return
        yield Line(self.n_lines, start, content)

    def _pass(self, content: bytes) -> None:
        self.offset += len(content)
        self._known = (self._known + content[-_KNOWN_BYTES:])[-_KNOWN_BYTES:]


def read_line(path: Path, start: int) -> bytes:
    """Return the line at an offset, without its line break; of a longer one, the first 16 MB.

    Raises:
        UsageError: if the file is a link or not a file.
    """
    with _opened(path) as file:
        file.seek(start)
        return file.readline(MOST_LINE_BYTES).rstrip(b"\n")


def open_plain(path: Path) -> int:
    """Open a file for reading, and return its descriptor. No link is followed, and no pipe or device is waited for.

    Args:
        path: The file.

    Raises:
        UsageError: if it is a link or not a file.
        FileNotFoundError: if it does not exist.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path.name} can't be read: {error.strerror}; a link is not followed") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path.name} is not a plain file; move it away")
    return descriptor


def _opened(path: Path) -> BufferedReader:
    return os.fdopen(open_plain(path), "rb")


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
