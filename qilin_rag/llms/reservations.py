"""Keep on disk what calls under way have reserved, so that a crash does not make them free.

A call adds a line before it begins, and another one when it has ended. A reservation without an end is of a call that
a crash or Ctrl-C cut off: its server may charge for it, and no other file tells of it. A prompt in a batch is known by
its key, since the batch brings its reply to the next session.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import IO

from pydantic import NonNegativeInt

from qilin_rag.core.files import mend_last_line, open_new, read_lines, write_all, write_text, writing
from qilin_rag.core.types import Figure, Frozen
from qilin_rag.llms.spending import NOTHING, SpentAmount


class Reservation(Frozen):
    """A line of a file of reservations: what a call takes at most, or that it has ended."""

    id: str
    cost: Figure = 0.0
    tokens: NonNegativeInt = 0
    has_ended: bool = False


def reservations_path(replies: Path) -> Path:
    """Return the file of reservations of the calls whose replies a file gets."""
    return replies.with_name(f"reservations-{replies.name}")


def cut_off_in(path: Path) -> list[Reservation]:
    """Return the reservations of calls that were cut off."""
    left: dict[str, Reservation] = {}
    for line in read_lines(path, Reservation, half_line_ok=True):
        if line.has_ended:
            left.pop(line.id, None)
        else:
            left[line.id] = line
    return list(left.values())


def spent_on_cut_off(path: Path) -> SpentAmount:
    """Return the most that calls took that were cut off."""
    total = NOTHING
    for each in cut_off_in(path):
        total = total.plus(SpentAmount(max(0.0, each.cost), each.tokens))
    return total


class Reservations:
    """The reservations of one session in a file, which is made with the first call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = secrets.token_hex(8)
        self._n = 0
        self._file: IO[bytes] | None = None

    def begin(self, most: SpentAmount, prompt_key: str = "") -> str:
        """Record what a call takes at most; return its key, which begins with that of its prompt if it has one."""
        self._n += 1
        key = f"{prompt_key}/{self._session}-{self._n}"
        self._write(Reservation(id=key, cost=most.cost, tokens=round(most.tokens)))
        return key

    def end(self, key: str) -> None:
        """Record that a call has ended."""
        self._write(Reservation(id=key, has_ended=True))

    def close(self) -> None:
        """Keep only the reservations of calls that were cut off, and no file without any."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if left := cut_off_in(self.path):
            write_text(self.path, (f"{each.model_dump_json()}\n" for each in left))
        else:
            with writing(self.path):
                self.path.unlink()

    def _write(self, line: Reservation) -> None:
        with writing(self.path):
            if self._file is None:
                mend_last_line(self.path)
                self._file = open_new(self.path, "ab")
            write_all(self._file, line.model_dump_json(exclude_defaults=True).encode() + b"\n")
