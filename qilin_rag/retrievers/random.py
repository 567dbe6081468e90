"""Draw notes at random: a baseline with notes that have nothing to do with the question."""

from __future__ import annotations

import random
from collections.abc import Sequence

from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever


class Random(Retriever):
    """`k` different notes drawn at random for each question.

    The draw depends on `seed` and the id of the question only, not on the other questions.

    Example:
        >>> import qilin_rag as qr
        >>> qr.run(retriever=qr.Random(seed=1), limit=20, metrics="rouge_l").metrics["recall@5"].value < 1
        True
    """

    seed: int = 0
    """The seed of the draw, an integer."""

    @property
    def reads_query(self) -> bool:
        """Return False: its hits are drawn by the id of the question."""
        return False

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the drawn notes with the scores k, k-1, ..., 1 in the order they were drawn."""
        note_idxs = sorted(map(int, notes.note_idxs))
        rankings = []
        for question in questions:
            drawn = random.Random(f"{self.seed} {question.id}").sample(note_idxs, min(k, len(note_idxs)))
            rankings.append(
                [Hit(note_idx=n, score=float(len(drawn) - rank + 1), rank=rank) for rank, n in enumerate(drawn, 1)]
            )
        return rankings
