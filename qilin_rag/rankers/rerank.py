"""The second stage of a run: a trained ranker puts what a retriever found in its own order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.answering import third_party
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.requests import requests_of
from qilin_rag.errors import UsageError
from qilin_rag.rankers.trained import TrainedRanker, load_ranker
from qilin_rag.registry import RANKERS
from qilin_rag.types import Hit, Question


class Reranker(NamedTuple):
    """A trained ranker, by its name, and how many hits it is given of each question."""

    name: str
    ranker: TrainedRanker
    depth: int

    @classmethod
    def open(cls, folder: Path, depth: int) -> Reranker:
        """The ranker that `train` wrote; a UsageError where it needs more of a request than a question has."""
        ranker = load_ranker(folder)
        name = next(name for name, path in RANKERS.table().items() if path == ranker.class_path())
        if not ranker.reads_text_only:
            raise UsageError(f"--rerank {folder}: {name} reads more than query and notes, and a question has no more")
        return cls(name, ranker, depth)

    def identity(self) -> dict[str, Any]:
        """What can change an order."""
        return {"ranker": self.ranker.identity(), "depth": self.depth}

    def rerank(
        self, questions: Sequence[Question], rankings: Sequence[Sequence[Hit]], notes: NoteStore
    ) -> list[list[Hit]]:
        """The same hits, best first by the ranker, with its scores."""
        requests = requests_of(questions, rankings)
        if not requests.n_candidates:
            return [[] for _ in questions]
        with third_party(f"ranker {self.ranker.class_path()}"):
            return requests.rankings(self.ranker.score(requests, Catalogue(notes)))
