"""Read the new lines of a file that another process appends to, in bounded pieces."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.plain_files import MOST_BYTES, open_plain

_PIECE_BYTES = 1 << 16
_KNOWN_BYTES = 64


class Line(NamedTuple):
    """A line without its line break. `number` counts from 1; `start` is its offset in the file."""

    number: int
    start: int
    content: bytes


class Tail:
    """A place in a file of JSON lines, up to which the file was read.

    A half line at the end waits until it is complete.

    Args:
        path: The file. It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restart()

    def restart(self) -> None:
        """Begin at the start of the file."""
        self.is_at_end = False
        self._offset = self._n_lines = 0
        self._lacks_break = False
        self._inode: int | None = None
        self._known = b""

    def was_replaced(self) -> bool:
        """Return whether what was read is not there any more: another file, a shorter one, or other content.

        Raises:
            UsageError: if the file is not a plain one.
        """
        try:
            with open_plain(self.path) as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    return self._inode is not None
                file.seek(self._offset - len(self._known))
                return file.read(len(self._known)) != self._known
        except FileNotFoundError:
            return self._inode is not None

    def lines(self, most_bytes: int) -> Iterator[Line]:
        """Yield the new lines. `is_at_end` says afterwards whether there are no more.

        Args:
            most_bytes: Stop after about this many bytes, with a whole line.

        Raises:
            UsageError: if the file is not a plain one, or a line is too long.
        """
        with suppress(FileNotFoundError), open_plain(self.path) as file:
            self._inode = os.fstat(file.fileno()).st_ino
            began, left, parts, n_bytes = self._offset, most_bytes, [b""], 0
            file.seek(began)
            while piece := file.read(_PIECE_BYTES):
                left -= len(piece)
                part, *more = piece.split(b"\n")
                parts.append(part)
                n_bytes += len(part)
                for following in more:
                    yield from self._whole(b"".join(parts))
                    parts, n_bytes = [following], len(following)
                if n_bytes > MOST_BYTES:
                    most = f"longer than {MOST_BYTES >> 20} MB"
                    raise UsageError(f"{self.path}, line {self._n_lines + 1}: {most}; correct or remove the line")
                if left <= 0 and self._offset > began:
                    self.is_at_end = False
                    return
            rest = b"".join(parts)
            if rest and _is_json(rest):  # a crash took its line break
                self._lacks_break = True
                yield self._pass(rest, rest)
        self.is_at_end = True

    def _whole(self, content: bytes) -> Iterator[Line]:
        if self._lacks_break and not content:
            self._lacks_break = False
            self._advance(b"\n")
        else:
            yield self._pass(content, content + b"\n")

    def _pass(self, content: bytes, read: bytes) -> Line:
        start = self._offset
        self._n_lines += 1
        self._advance(read)
        return Line(self._n_lines, start, content)

    def _advance(self, read: bytes) -> None:
        self._offset += len(read)
        self._known = (self._known + read[-_KNOWN_BYTES:])[-_KNOWN_BYTES:]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
