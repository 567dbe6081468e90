"""Retrieve the results that came with the data: the nearest there is to the conditions of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.core.errors import UsageError
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever


class Recorded(Retriever):
    """Results recorded with the data: `recorded:bm25` (Anserini) or `recorded:dpr` (a BERT bi-encoder), best 100.

    Example:
        >>> Recorded(results="dpr").changed()
        {'results': 'dpr'}
    """

    argument: ClassVar[str | None] = "results"
    version: ClassVar[int] = 2
    nested: ClassVar[bool] = True

    results: str
    """The name of the results: bm25 or dpr in Qilin."""

    @property
    def reads_query(self) -> bool:
        """Return False: its hits are those that came with the question."""
        return False

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the best `k` recorded notes of each question, without duplicates.

        Raises:
            UsageError: The data has no such results for a question.
        """
        rankings = []
        for question in questions:
            if self.results not in question.recorded:
                raise UsageError(
                    f"the data has no recorded results {self.results!r} for question {question.id}; "
                    f"it has {', '.join(question.recorded) or 'none'}"
                )
            best: dict[int, float] = {}
            for note_idx, score in question.recorded[self.results]:
                best[note_idx] = max(score, best.get(note_idx, score))
            rankings.append(ranked(best, question.query, k))
        return rankings
