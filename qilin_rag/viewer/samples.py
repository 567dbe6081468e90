"""The samples of a run as they come: where each is in its file, so that a few of thousands are read."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines
from qilin_rag.core.plain_files import MOST_BYTES, FileState, file_state, open_plain
from qilin_rag.core.types import Question, Sample
from qilin_rag.pipeline.run_directory import QUESTIONS, SAMPLES
from qilin_rag.reports.judged_parts import JudgedParts
from qilin_rag.viewer.counting import QuestionId
from qilin_rag.viewer.tail import Line, Tail

T = TypeVar("T", bound=BaseModel)
PAGE = 200
_BEGINNING_CHARS = 200
_MOST_CHARS = 200_000
_MOST_RUNS = 16
_MOST_BYTES = 256 << 20  # that are read for one request


class _About(BaseModel):
    """The part of a line of samples.jsonl that says which question it is about."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question_id: str


class SampleIndex:
    """The places of a run's samples, in the order in which they came. What was read stays known when more come.

    Args:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tail = Tail(path / SAMPLES)
        self._lock = threading.Lock()
        self._restart()

    def _restart(self) -> None:
        self._tail.restart()
        self._starts = array("q")
        self._last: dict[str, int] = {}
        self._asked: set[str] = set()
        self._questions: FileState | None = None

    def page(self, first: int | None) -> dict[str, Any]:
        """Return some samples in short, and how many there are.

        Args:
            first: The place of the first, from 0; None for the last ones.

        Raises:
            UsageError: if a line can't be read.
        """
        with self._lock:
            self._update()
            n = len(self._starts)
            first = max(0, n - PAGE) if first is None else first
            rows = [self._brief(place) for place in range(first, min(first + PAGE, n))]
            return {"n": n, "from": first, "rows": rows, "is_read": self._tail.is_at_end}

    def last(self, question_id: str) -> Sample | None:
        """Return the last sample of a question; None if it has none.

        Args:
            question_id: The id of the question.

        Raises:
            UsageError: if the line can't be read.
        """
        with self._lock:
            self._update()
            place = self._last.get(question_id)
            return None if place is None else self._sample(place)

    def _update(self) -> None:
        """Note the places of new lines. A line about a question that is not of the run is left out."""
        questions = file_state(self._path / QUESTIONS)
        if questions != self._questions or self._tail.was_replaced():
            self._restart()
            self._questions = questions
            self._asked = {question.id for question in read_lines(self._path / QUESTIONS, QuestionId)}
        for line in self._tail.lines(_MOST_BYTES):
            question_id = _read(_About, line).question_id
            if question_id in self._asked:
                self._last[question_id] = len(self._starts)
                self._starts.append(line.start)

    def _sample(self, place: int) -> Sample:
        with open_plain(self._path / SAMPLES) as file:
            file.seek(self._starts[place])
            content = file.readline(MOST_BYTES + 1)
        return _read(Sample, Line(place + 1, self._starts[place], content))

    def _brief(self, place: int) -> dict[str, Any]:
        sample = self._sample(place)
        said = sample.answer if sample.is_answered else sample.error or sample.answer
        return {
            "place": place,
            "id": sample.question_id,
            "query": sample.query[:_BEGINNING_CHARS],
            "status": sample.status,
            "answer": said[:_BEGINNING_CHARS],
            "is_whole": len(said) <= _BEGINNING_CHARS,
            "is_earlier": self._last[sample.question_id] != place,
        }


class Indices:
    """The indices of the runs that were looked at last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, SampleIndex] = OrderedDict()

    def of(self, path: Path) -> SampleIndex:
        """Return the index of a run.

        Args:
            path: The run directory.
        """
        with self._lock:
            index = self._kept.setdefault(path, SampleIndex(path))
            self._kept.move_to_end(path)
            while len(self._kept) > _MOST_RUNS:
                self._kept.popitem(last=False)
            return index


def in_full(path: Path, sample: Sample, parts: JudgedParts) -> dict[str, Any]:
    """Return a question as the page shows it. Texts of more than 200,000 characters are cut.

    Args:
        path: The run directory.
        sample: Its sample.
        parts: Into which judges took its answer apart.
    """
    asked = next((each for each in read_lines(path / QUESTIONS, Question) if each.id == sample.question_id), None)
    return {
        "id": sample.question_id,
        "query": _text(sample.query),
        "status": sample.status,
        "marks": sample.marks,
        "error": _text(sample.error or ""),
        "messages": [{"role": each.get("role", ""), **_text(each.get("content", ""))} for each in sample.messages],
        "answer": _text(sample.answer),
        "raw": None if sample.raw == sample.answer else _text(sample.raw),
        "references": [_text(each) for each in (asked.references if asked else [])],
        "model": sample.model,
        "finish_reason": sample.finish_reason,
        "usage": sample.usage.model_dump(),
        "latency_s": sample.latency_s,
        "cached": sample.cached,
        "retries": sample.retries,
        "notes_used": sample.notes_used,
        "notes_given": sample.notes_given,
        "n_images": len(sample.images),
        "images_left_out": sample.images_left_out,
        "parts": parts.as_json(),
    }


def _text(text: str) -> dict[str, Any]:
    return {"text": text[:_MOST_CHARS], "n_left_out": max(0, len(text) - _MOST_CHARS)}


def _read(kind: type[T], line: Line) -> T:
    try:
        return kind.model_validate_json(line.content)
    except ValidationError as error:
        raise UsageError(f"{SAMPLES}, line {line.number}: not a sample: {error.errors()[0]['msg']}") from None
