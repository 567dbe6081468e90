"""No retrieval: the LLM answers from what it knows (the paper's condition NA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever
from qilin_rag.types import Hit, Question


class NoRetriever(Retriever):
    """Gives no note to any question."""

    ignores_k: ClassVar[bool] = True

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """An empty ranking for each question."""
        return [[] for _ in questions]
