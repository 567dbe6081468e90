"""The generic layout: notes.jsonl and dqa.jsonl.

A note has note_idx, title and content (extra keys are ignored); a question has search_idx, query, answers and
ref_note_idx_list (extra keys with a plain value are kept in its `meta`).
"""

from __future__ import annotations

import hashlib
import json
import mmap
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qilin_rag.data.dataset import Dataset, note_digest
from qilin_rag.errors import UsageError
from qilin_rag.text import clean
from qilin_rag.types import Note, Question

_MAX_NOTE_IDX = 2**63 - 1
_SCALARS = (str, int, float, bool, type(None))


def load_jsonl(folder: Path, name: str, label: str) -> Dataset:
    """Read a folder of the generic layout; the first defect is a UsageError naming file and line."""
    return Dataset(
        name=name,
        label=label,
        notes=JsonlNotes(folder / "notes.jsonl"),
        questions=tuple(_questions(folder / "dqa.jsonl")),
    )


class JsonlNotes:
    """A NoteStore over notes.jsonl: memory-mapped text, with one id, offset and digest a note in memory."""

    def __init__(self, path: Path) -> None:
        """Check every line once, and remember where each note starts."""
        self._path = path
        note_idxs, offsets, line_numbers = array("q"), array("q"), array("q")
        digests = bytearray()
        for line_number, offset, raw in _lines(path):
            note = _note(path, line_number, raw)
            note_idxs.append(note.note_idx)
            offsets.append(offset)
            line_numbers.append(line_number)
            digests += note_digest(note)
        self._note_idxs = np.array(note_idxs, dtype=np.int64)
        self._offsets = np.array(offsets, dtype=np.int64)
        self._line_numbers = np.array(line_numbers, dtype=np.int64)
        self._digests = np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 32)
        self._order = np.argsort(self._note_idxs, kind="stable")
        self._sorted = self._note_idxs[self._order]
        doubles = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(doubles):
            first, second = (int(self._line_numbers[self._order[doubles[0] + i]]) for i in (0, 1))
            raise _defect(path, second, f"note_idx {self._sorted[doubles[0]]} is already on line {first}")

    @property
    def note_idxs(self) -> npt.NDArray[np.int64]:
        """The ids of all notes in file order."""
        return self._note_idxs

    @cached_property
    def sha256(self) -> str:
        """Hash of the notes' digests in the order of their ids."""
        return hashlib.sha256(self._digests[self._order].tobytes()).hexdigest()

    @cached_property
    def _text(self) -> mmap.mmap | bytes:
        with self._path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if len(self) else b""

    def __len__(self) -> int:
        return len(self._note_idxs)

    def __iter__(self) -> Iterator[Note]:
        for line_number, _, raw in _lines(self._path):
            yield _note(self._path, line_number, raw)

    def get(self, note_idxs: Sequence[int]) -> list[Note]:
        """The named notes, read from the memory-mapped file in the order asked for."""
        missing = self.missing(note_idxs)
        if missing:
            raise UsageError(f"{self._path} has no note {', '.join(map(str, missing[:10]))}")
        slots = np.searchsorted(self._sorted, np.asarray(note_idxs, dtype=np.int64))
        return [self._read(int(self._order[slot])) for slot in slots]

    def missing(self, note_idxs: Sequence[int]) -> list[int]:
        """Those of these ids that no note has."""
        return [int(note_idx) for note_idx in np.setdiff1d(np.asarray(note_idxs, dtype=np.int64), self._note_idxs)]

    def _read(self, row: int) -> Note:
        start = int(self._offsets[row])
        end = self._text.find(b"\n", start)
        raw = self._text[start : end if end >= 0 else len(self._text)]
        return _note(self._path, int(self._line_numbers[row]), raw)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Line number, byte offset and content of every line that is not blank."""
    offset = 0
    try:
        with path.open("rb") as file:
            for line_number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield line_number, offset, raw
                offset += len(raw)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error


def _defect(path: Path, line_number: int, problem: str) -> UsageError:
    return UsageError(f"{path}, line {line_number}: {problem}")


def _object(path: Path, line_number: int, raw: bytes, keys: Sequence[str]) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig" if line_number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise _defect(path, line_number, f"not UTF-8 text (byte {error.start} of the line)") from error
    except json.JSONDecodeError as error:
        raise _defect(path, line_number, f"not valid JSON: {error.msg} (column {error.colno})") from error
    except (RecursionError, ValueError) as error:
        raise _defect(path, line_number, f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _defect(path, line_number, "expected a JSON object")
    for key in keys:
        if key not in value:
            raise _defect(path, line_number, f"key {key!r} is missing")
    return value


def _text_of(path: Path, line_number: int, row: dict[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise _defect(path, line_number, f"{key} must be text, not {type(value).__name__}")
    return clean(value)


def _is_note_idx(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NOTE_IDX


def _note(path: Path, line_number: int, raw: bytes) -> Note:
    row = _object(path, line_number, raw, ("note_idx", "title", "content"))
    if not _is_note_idx(row["note_idx"]):
        raise _defect(path, line_number, f"note_idx must be a whole number from 0, not {row['note_idx']!r}")
    title, content = (_text_of(path, line_number, row, key) for key in ("title", "content"))
    return Note.model_construct(note_idx=row["note_idx"], title=title, content=content)


def _questions(path: Path) -> Iterator[Question]:
    known = ("search_idx", "query", "answers", "ref_note_idx_list")
    seen: dict[str, int] = {}
    for line_number, _, raw in _lines(path):
        row = _object(path, line_number, raw, known[:3])
        if not isinstance(row["search_idx"], int | str) or isinstance(row["search_idx"], bool):
            raise _defect(path, line_number, "search_idx must be a whole number or text")
        question_id = clean(str(row["search_idx"]))
        if question_id in seen:
            raise _defect(path, line_number, f"search_idx {question_id} is already on line {seen[question_id]}")
        seen[question_id] = line_number
        answers = row["answers"]
        if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise _defect(path, line_number, "answers must be a list of at least one text that is not empty")
        notes = row.get("ref_note_idx_list") or []
        if not isinstance(notes, list) or not all(map(_is_note_idx, notes)):
            raise _defect(path, line_number, "ref_note_idx_list must be a list of whole numbers from 0")
        yield Question(
            id=question_id,
            query=_text_of(path, line_number, row, "query"),
            references=[clean(answer) for answer in answers],
            reference_notes=list(dict.fromkeys(notes)),
            meta={
                clean(key): clean(value) if isinstance(value, str) else value
                for key, value in row.items()
                if key not in known and isinstance(value, _SCALARS)
            },
        )
    if not seen:
        raise UsageError(f"{path} holds no question")
