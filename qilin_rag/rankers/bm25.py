"""BM25 of the retriever, for the candidates alone: the query's words in title and content, idf over the corpus."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from qilin_rag.core.progress import stage
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.base import Ranker
from qilin_rag.retrievers.bm25 import retriever as bm25
from qilin_rag.retrievers.bm25.analyzers import Analyzer


class BM25(Ranker):
    """As the retriever of this name, with its index; a candidate that shares no term with the query scores 0."""

    version: ClassVar[int] = 2
    only_if_set: ClassVar[frozenset[str]] = frozenset({"simplify"})

    k1: float = 0.9
    b: float = 0.4
    analyzer: Analyzer = "word"
    simplify: bool = False

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """BM25 of each candidate."""
        retriever = bm25.BM25(k1=self.k1, b=self.b, analyzer=self.analyzer, simplify=self.simplify)
        slots = catalogue.notes.slots(requests.note_idx)
        scores: Floats = np.zeros(requests.n_candidates, np.float32)
        with stage("bm25", len(requests)) as advance:
            candidates = np.split(slots, requests.offsets[1:-1])
            found = retriever.scores(requests.queries, catalogue.notes, candidates)
            for some, start, end in zip(found, requests.offsets[:-1], requests.offsets[1:], strict=True):
                scores[start:end] = some
                advance()
        return scores
