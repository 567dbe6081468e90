"""Retrieve the notes that the reference answer cites: the upper bound of retrieval (the paper's condition Oracle)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever


class Oracle(Retriever):
    """All reference notes of a question in the order they are cited; `k` does not cut them.

    These are the notes that the reference answer cites: the upper bound of retrieval.

    Example:
        >>> import qilin_rag as qr
        >>> qr.run(retriever=qr.Oracle(), limit=20, metrics="rouge_l").metrics["recall@5"].value
        1.0
    """

    ignores_k: ClassVar[bool] = True

    @property
    def reads_query(self) -> bool:
        """Return False: its hits are the reference notes."""
        return False

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the reference notes with the scores n, n-1, ..., 1, so that every evaluator keeps their order."""
        return [
            [
                Hit(note_idx=note_idx, score=float(len(question.reference_notes) - rank + 1), rank=rank)
                for rank, note_idx in enumerate(question.reference_notes, start=1)
            ]
            for question in questions
        ]


class OracleTopK(Oracle):
    """The first `k` reference notes of a question: the upper bound of a retriever that is limited to `k` notes.

    Example:
        >>> import qilin_rag as qr
        >>> qr.run(retriever=qr.OracleTopK(), top_k=1, limit=20, metrics="rouge_l").metrics["mrr@1"].value
        1.0
    """

    ignores_k: ClassVar[bool] = False
    nested: ClassVar[bool] = True

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the first `k` hits of the oracle."""
        return [hits[:k] for hits in super().search(questions, notes, k)]
