"""A sparse retriever without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qilin_rag.models.prefixes import Prefixes
from qilin_rag.models.sparse_encoder import SparseVectors
from qilin_rag.retrievers.sparse.retriever import LearnedSparse
from tests.retrievers.tiny_models import CHARACTERS


class Counted(LearnedSparse):
    """The weight of a character is the number of its occurrences; 'x' has none."""

    def identity(self) -> dict[str, Any]:
        return {"counted": True}

    def index_identity(self) -> dict[str, Any]:
        return self.identity()

    def _prefixes(self) -> Prefixes:
        return Prefixes("", "")

    def _encode(self, texts: Sequence[str], task: str, names: Sequence[str]) -> SparseVectors:
        counts = [
            {term: text.count(CHARACTERS[term]) for term in sorted({CHARACTERS.find(c) for c in text if c not in "x "})}
            for text in texts
        ]
        indptr = np.cumsum([0, *map(len, counts)])
        terms = np.array([term for of_text in counts for term in of_text], np.int32)
        weights = np.array([n for of_text in counts for n in of_text.values()], np.float32)
        return SparseVectors(indptr, terms, weights, len(CHARACTERS))
