"""Dataset: notes with random access and questions, the common form of every layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from qilin_rag.core.errors import UsageError
from qilin_rag.core.hashing import json_digest
from qilin_rag.core.text import counted
from qilin_rag.core.types import Question
from qilin_rag.data.defects import has_query
from qilin_rag.data.notes import NoteStore


@dataclass(frozen=True)
class Dataset:
    """Notes and questions under a name (for paths) and a label (for tables)."""

    name: str
    label: str
    notes: NoteStore
    questions: tuple[Question, ...]

    @cached_property
    def askable(self) -> tuple[Question, ...]:
        """Return the questions with a readable query; raise UsageError if there are none."""
        found = tuple(filter(has_query, self.questions))
        if not found:
            raise UsageError(
                f"data {self.label!r}: all of its {counted(len(self.questions), 'question')} have an empty query"
            )
        return found

    @cached_property
    def sha256(self) -> str:
        """Return the hash of the notes, the questions and the results recorded with them.

        It is that of the data, whichever fields of the notes are read; `notes.sha256` is that of the texts read.
        """
        parts = [self.notes.data_sha256, hash_questions(self.questions)]
        if any(question.recorded for question in self.questions):
            parts.append(_hash_of_set([question.id, question.recorded] for question in self.questions))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def hash_questions(questions: Sequence[Question]) -> str:
    """Return the hash of a set of questions without recorded results; their order does not matter."""
    return _hash_of_set(question.model_dump(mode="json", exclude={"recorded"}) for question in questions)


def _hash_of_set(values: Iterable[object]) -> str:
    digests = sorted(json_digest(value, sort_keys=True, ensure_ascii=False) for value in values)
    return hashlib.sha256(b"".join(digests)).hexdigest()
