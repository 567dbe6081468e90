"""An opened dense index: the notes' vectors, how they are searched, and which notes have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.core.types import Hit
from qilin_rag.data import NoteStore
from qilin_rag.models.sentence_encoder import Vectors
from qilin_rag.retrievers.dense.search import (
    Approximate,
    Ids,
    default_n_probe,
    search_approximately,
    search_flat,
)
from qilin_rag.retrievers.dense.shards import Halves, ImagesOfIndex


class OpenedIndex(NamedTuple):
    """The vectors of notes, in the order of the store.

    Attributes:
        vectors: Shape (n_vectors, dimension).
        images: The images that they were made of; None if they were made of texts.
        rows: The positions in the store of the notes that have a vector; None if all have.
        approximate: faiss' index of them; None to compare all.
    """

    vectors: Halves
    images: ImagesOfIndex | None
    rows: Ids | None = None
    approximate: Approximate | None = None

    def nearest(
        self, texts: Sequence[str], queries: Vectors, notes: NoteStore, k: int, n_probe: int | None, by_distance: bool
    ) -> tuple[list[list[Hit]], int]:
        """Return the ranking of each query, and the number of those that had ties at rank `k`.

        Args:
            texts: The texts of the queries, by which ties are ordered.
            queries: Their vectors.
            notes: The notes that the index was made of.
            k: The most hits of a query.
            n_probe: The number of lists that an approximate index reads; None: by the number of vectors.
            by_distance: Whether vectors are compared by distance.
        """
        note_idxs = notes.note_idxs if self.rows is None else notes.note_idxs[self.rows]
        if self.approximate is None:
            return search_flat(texts, queries, self.vectors, note_idxs, k, by_distance)
        breadth = probed(n_probe, self.approximate)
        return search_approximately(texts, queries, self.vectors, note_idxs, k, self.approximate, breadth)


def probed(n_probe: int | None, index: Approximate) -> int:
    """Return the number of lists to read: the given one, else by the number of vectors."""
    return n_probe or default_n_probe(int(index.index.ntotal))


def rows_with_image(images: ImagesOfIndex) -> Ids:
    """Return the positions of the notes that have an image."""
    return np.flatnonzero(images.digests.any(axis=1))
