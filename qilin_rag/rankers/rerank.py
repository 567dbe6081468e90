"""Re-rank the hits of a run: a trained ranker orders what a retriever found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.third_party import third_party
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.requests import requests_of
from qilin_rag.rankers.trained import TrainedRanker, load_ranker
from qilin_rag.retrievers.base import min_max


class Reranker(NamedTuple):
    """A trained ranker by its name, the number of hits it gets for each question, and its weight.

    Below weight 1 the order is by weight * ranker + (1 - weight) * retriever, the scores of each from 0 to 1 over the
    hits of the question: a linear interpolation, as in Birch (Akkalyoncu Yilmaz et al. 2019).
    """

    name: str
    ranker: TrainedRanker
    depth: int
    weight: float = 1.0

    @classmethod
    def open(cls, folder: Path, depth: int, weight: float = 1.0) -> Reranker:
        """Open the ranker that `train` wrote; raise a UsageError if it needs more of a request than a question has."""
        ranker = load_ranker(folder)
        name = ranker.called()
        if not ranker.reads_text_only:
            raise UsageError(f"rerank {folder}: {name} reads more than query and notes, and a question has no more")
        return cls(name, ranker, depth, weight)

    @property
    def folder(self) -> Path | None:
        """Return the folder of the ranker."""
        return self.ranker.checkpoint

    def identity(self) -> dict[str, Any]:
        """Return what can change an order."""
        beside = {} if self.weight == 1 else {"weight": self.weight}
        return {"version": 2, "ranker": self.ranker.identity(), "depth": self.depth, **beside}

    def rerank(
        self, questions: Sequence[Question], rankings: Sequence[Sequence[Hit]], notes: NoteStore
    ) -> list[list[Hit]]:
        """Return the same hits, best first by the ranker, with its scores or the weighted ones."""
        requests = requests_of(questions, rankings)
        if not requests.n_candidates:
            return [[] for _ in questions]
        with third_party(f"ranker {self.ranker.called()}"):
            scores = self.ranker.score(requests, Catalogue(notes))
        second = [
            ranked(dict(zip(requests.note_idx[start:end].tolist(), scores[start:end].tolist(), strict=True)), query)
            for query, start, end in zip(requests.queries, requests.offsets[:-1], requests.offsets[1:], strict=True)
        ]
        if self.weight == 1:
            return second
        return [
            self.beside(by_ranker, found, question.query)
            for question, by_ranker, found in zip(questions, second, rankings, strict=True)
        ]

    def beside(self, second: Sequence[Hit], first: Sequence[Hit], query: str) -> list[Hit]:
        """Rank the hits of one question by the weighted scores of ranker and retriever."""
        of_first = {hit.note_idx: share for hit, share in zip(first, min_max(first), strict=True)}
        of_second = {hit.note_idx: share for hit, share in zip(second, min_max(second), strict=True)}
        return ranked(
            {note: self.weight * share + (1 - self.weight) * of_first[note] for note, share in of_second.items()},
            query,
        )
