"""What every loader makes: a Dataset, its notes behind a random-access NoteStore."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qilin_rag.types import Note, Question


class NoteStore(Protocol):
    """All notes of a corpus, without holding them as Python objects."""

    @property
    def note_idxs(self) -> npt.NDArray[np.int64]:
        """The ids of all notes in storage order, shape (n_notes,)."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of what the notes say, whatever the layout and the order they are stored in."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Note]:
        """Stream all notes in storage order."""
        ...

    def missing(self, note_idxs: Sequence[int]) -> list[int]:
        """Those of these ids that no note has."""
        ...

    def get(self, note_idxs: Sequence[int]) -> list[Note]:
        """The named notes, in the order asked for; a UsageError names those that are not there."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Notes and questions under a name (for paths) and a label (for tables)."""

    name: str
    label: str
    notes: NoteStore
    questions: tuple[Question, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of notes and questions together."""
        return hashlib.sha256(f"{self.notes.sha256} {hash_questions(self.questions)}".encode()).hexdigest()


def hash_questions(questions: Sequence[Question]) -> str:
    """Hash of a set of questions: ids, queries, references; their order does not matter."""
    digests = sorted(
        _digest([question.id, question.query, question.references, question.reference_notes]) for question in questions
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()


def note_digest(note: Note) -> bytes:
    """32 bytes that stand for one note's content."""
    return _digest([note.note_idx, note.title, note.content])


def _digest(value: object) -> bytes:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).digest()
