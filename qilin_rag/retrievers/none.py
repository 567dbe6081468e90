"""Retrieve nothing: the LLM answers from what it knows (the paper's condition NA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever


class NoRetriever(Retriever):
    """No retrieval: the LLM answers from what it knows (the paper's condition NA).

    Example:
        >>> import qilin_rag as qr
        >>> qr.run(retriever=qr.NoRetriever(), metrics="rouge_l", limit=5).metrics["recall@5"].value
        0.0
    """

    ignores_k: ClassVar[bool] = True

    @property
    def reads_query(self) -> bool:
        """Return False: it has no hits."""
        return False

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return an empty ranking for each question."""
        return [[] for _ in questions]
