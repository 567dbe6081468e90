"""Rank candidates by the retriever's BM25: the query's words in title and content, idf over the corpus."""

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
    """BM25 as the retriever of this name computes it, with its index.

    A candidate that shares no term with the query scores 0.

    Example:
        >>> BM25(k1=1.2).changed()
        {'k1': 1.2}
    """

    version: ClassVar[int] = 2
    only_if_set: ClassVar[frozenset[str]] = frozenset({"simplify"})

    k1: float = 0.9
    """Saturation of the term frequency, a number from 0."""
    b: float = 0.4
    """Normalisation by the length of the note, from 0 (none) to 1 (full)."""
    analyzer: Analyzer = "word"
    """How text becomes terms: word (jieba), char, or cjk-bigram (Lucene's CJKAnalyzer)."""
    simplify: bool = False
    """Whether traditional characters of queries and notes are read as simplified ones (OpenCC, extra `han`)."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return the BM25 score of each candidate."""
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
