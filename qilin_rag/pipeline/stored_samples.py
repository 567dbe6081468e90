"""Read the samples of a run a few at a time: their prompts are longer than all else that is known of a run."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines, rows_of
from qilin_rag.core.plain_files import batches_of_lines, open_plain
from qilin_rag.core.types import Sample

_AT_ONCE = 256


class _Named(BaseModel):
    """The question and state of a line; its other fields are read later."""

    model_config = ConfigDict(extra="ignore")

    question_id: str


class StoredSamples:
    """The last sample of each question, in the order of the questions, read anew by each loop over them."""

    def __init__(self, path: Path, question_ids: Sequence[str]) -> None:
        """Find the lines of a file of samples; a half last line is skipped.

        Raises:
            UsageError: if a line is not valid, or a question has no sample.
        """
        self._path = path
        self._ends = array("q", [0])
        last = {question_id: number for number, question_id in enumerate(self._scan())}
        if unanswered := sum(question_id not in last for question_id in question_ids):
            raise UsageError(f"{path.parent}: {unanswered} questions have no sample yet; run it again to resume")
        self._finals = array("q", map(last.__getitem__, question_ids))

    def __len__(self) -> int:
        return len(self._finals)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the last sample of each question."""
        return self._read(self._finals)

    def others(self) -> Iterator[Sample]:
        """Yield the other lines: of calls that were repeated later, and of questions that are not asked for."""
        finals = set(self._finals) if len(self._finals) < len(self._ends) - 1 else ()
        return self._read(number for number in range(len(self._ends) - 1) if finals and number not in finals)

    def _scan(self) -> Iterator[str]:
        """Yield the question of each line, and note its end."""
        try:
            file = open_plain(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UsageError(f"{self._path} can't be read: {error.strerror or error}") from error
        with file:
            for lines, has_end in batches_of_lines(self._path, file):
                for line in lines:
                    try:
                        question_id = _Named.model_validate_json(line).question_id
                    except ValidationError:
                        if not has_end:  # a half line
                            return
                        self._raise_error()
                        raise
                    self._ends.append(self._ends[-1] + len(line) + 1)
                    yield question_id

    def _read(self, numbers: Iterable[int]) -> Iterator[Sample]:
        """Yield the samples of lines by their numbers from 0."""
        numbers = iter(numbers)
        rows: Any = rows_of(Sample)
        while some := list(islice(numbers, _AT_ONCE)):
            lines = []
            with open_plain(self._path) as file:
                for number in some:
                    file.seek(self._ends[number])
                    lines.append(file.read(self._ends[number + 1] - self._ends[number] - 1))
            try:
                samples = rows.validate_json(b"[%b]" % b",".join(lines))
            except ValidationError:
                self._raise_error()
                raise
            yield from samples

    def _raise_error(self) -> None:
        """Raise the error of the first line that is not a sample."""
        for _ in read_lines(self._path, Sample, half_line_ok=True):
            pass
