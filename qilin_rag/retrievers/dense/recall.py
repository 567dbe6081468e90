"""Measure how many of the nearest notes an approximate index finds, once, and keep the result beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qilin_rag.core.types import Hit
from qilin_rag.data import NoteStore
from qilin_rag.models.sentence_encoder import Vectors
from qilin_rag.retrievers.dense.search import (
    Approximate,
    Neighbours,
    keep_recall,
    measured_recall,
    search_approximately,
)
from qilin_rag.retrievers.dense.shards import Halves

logger = logging.getLogger(__name__)
_SAMPLED_NOTES, _QUERY_CHARS = 200, 32  # notes whose titles are the queries, and the characters without a title


def measure_recall(
    kind: Neighbours,
    texts: Sequence[str],
    queries: Vectors,
    vectors: Halves,
    index: Approximate,
    n_probe: int,
    folder: Path,
) -> dict[str, Any]:
    """Compare the index with flat over these queries; log, store and return the result.

    Args:
        kind: The kind of the index.
        texts: The texts of the queries, by which ties are ordered.
        queries: Their vectors.
        vectors: The notes' vectors.
        index: The index of them.
        n_probe: The number of lists that it reads for a query.
        folder: The folder of the index.
    """
    rows = np.arange(len(vectors))

    def search(texts: Sequence[str], some: Vectors, k: int) -> tuple[list[list[Hit]], int]:
        return search_approximately(texts, some, vectors, rows, k, index, n_probe)

    measured = measured_recall(texts, queries, vectors, rows, search) | {"breadth": n_probe}
    try:
        keep_recall(kind, folder, measured)
    except OSError as error:
        logger.warning("the recall of %s can't be written to %s: %s", kind, folder, error)
    logger.info("%s against flat: %s", kind, ", ".join(f"{key} {value}" for key, value in measured.items()))
    return measured


def titles_of_some(notes: NoteStore) -> list[str]:
    """Return queries for `measure_recall`: the titles of a few notes, always the same."""
    n = min(_SAMPLED_NOTES, len(notes))
    sample = notes.get(np.random.default_rng(0).choice(notes.note_idxs, n, replace=False).tolist())
    return [note.title or note.content[:_QUERY_CHARS] for note in sample]
