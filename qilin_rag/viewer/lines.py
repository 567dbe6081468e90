"""Find the lines about one question in a large file, without reading the others again."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import lines_of
from qilin_rag.core.plain_files import batches_of_lines, file_state, open_plain
from qilin_rag.core.types import Sample
from qilin_rag.reports.judged_parts import NO_PARTS, JudgedParts, read_judged_parts
from qilin_rag.viewer.kept import Kept

T = TypeVar("T", bound=BaseModel)

_MOST_LINES = 1_000_000
_ID_FIRST = re.compile(rb'\s*\{\s*"(?:question_id|qid)"\s*:\s*("(?:[^"\\]|\\.)*")')


class Span(NamedTuple):
    """A line of a file: the byte at which it begins, and its length in bytes."""

    start: int
    length: int


class LineFinder:
    """Finds lines by question. A file that changed is looked through again.

    Args:
        most_files: The number of files whose places are kept; those of 3,000 lines take some 500 KB.
    """

    def __init__(self, most_files: int = 64) -> None:
        self._places: Kept[dict[str, list[Span]]] = Kept(most_files)

    def find(self, path: Path, question_id: str, kind: type[T]) -> list[T]:
        """Return the lines about a question, in the order of the file.

        Args:
            path: The file of JSON lines, each with a `question_id` or `qid`; without it there are no lines.
            question_id: The question.
            kind: The type of a line.

        Raises:
            UsageError: if the file is not a plain file, or a line is not of this type or too long.
        """
        if not path.is_symlink() and not path.exists():
            return []
        places = self._places.get(path, file_state(path), lambda: _places(path))
        found: list[T] = []
        with open_plain(path) as file:
            for start, length in places.get(question_id, []):
                file.seek(start)
                found += lines_of(path, io.BytesIO(file.read(length)), kind)
        return found


def find_parts(finder: LineFinder, path: Path, sample: Sample) -> JudgedParts:
    """Return the parts into which judges took an answer apart.

    Args:
        finder: Finds the lines about it.
        path: The run directory.
        sample: The answer.
    """
    parts = read_judged_parts(path, [sample], lambda file, kind: finder.find(file, sample.question_id, kind))
    return parts.get(sample.question_id, NO_PARTS)


def _places(path: Path) -> dict[str, list[Span]]:
    """Return the places of all whole lines by question."""
    places: dict[str, list[Span]] = {}
    start = number = 0
    with open_plain(path) as file:
        for lines, has_end in batches_of_lines(path, file):
            for line in lines if has_end else ():  # what has no end is being written, or a crash left it
                number += 1
                if number > _MOST_LINES:
                    raise UsageError(f"{path} has more than {_MOST_LINES:,} lines, too many to look through")
                if (name := _question_of(line)) is not None:
                    places.setdefault(name, []).append(Span(start, len(line)))
                start += len(line) + 1
    return places


def _question_of(line: bytes) -> str | None:
    """Return the question that a line is about; None if it does not say it."""
    first = _ID_FIRST.match(line)
    try:
        name = json.loads(first.group(1)) if first else _named_in(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def _named_in(line: Any) -> Any:
    return line.get("question_id", line.get("qid")) if isinstance(line, dict) else None
