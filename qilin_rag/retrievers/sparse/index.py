"""Search a memory-mapped index of sparse vectors by term, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import ranges
from qilin_rag.core.errors import UsageError
from qilin_rag.retrievers import postings
from qilin_rag.retrievers.postings import Candidates, Rows, Scores, best_sums, open_arrays

# The files of the postings, whose rows are numbers of distinct texts; note_starts.npy: the start of the notes with each
# text in notes.npy (places in the store).
FILES = (*postings.FILES, "note_starts.npy", "notes.npy")


class SparseIndex(NamedTuple):
    """Postings by term; those of term i are at `indptr[i] : indptr[i + 1]`.

    Attributes:
        indptr: Shape (n_terms + 1,).
        rows: The numbers of the texts that hold a term, rising within a term, shape (n_postings,).
        impacts: The weight of the term in each of them.
        note_starts: The start of the notes with each text in `notes`, shape (n_texts + 1,).
        notes: The places of notes in the store, by text, shape (n_notes,).
        is_checked: Whether all texts of a term's postings exist; postings are checked when they are first read.
    """

    indptr: npt.NDArray[np.int64]
    rows: Rows
    impacts: Scores
    note_starts: npt.NDArray[np.int64]
    notes: npt.NDArray[np.int32]
    is_checked: npt.NDArray[np.bool_]

    @property
    def n_texts(self) -> int:
        """Return the number of distinct texts."""
        return len(self.note_starts) - 1

    @property
    def n_terms(self) -> int:
        """Return the number of terms of the model."""
        return len(self.indptr) - 1

    def search(self, terms: Sequence[int], weights: Scores, k: int, scores: Scores) -> Candidates:
        """Return places and dot products of notes, among them the best `k` and all ties with the last.

        Args:
            terms: The terms of the query, without duplicates.
            weights: Their weights.
            k: The number of best notes to include.
            scores: Zeros, shape (n_texts,); they are zeros again afterwards.
        """
        found: list[tuple[Rows, tuple[Scores, Scores]]] = []
        for i, term in enumerate(terms):
            some = slice(self.indptr[term], self.indptr[term + 1])
            rows = self.rows[some]
            if not self.is_checked[term]:
                if len(rows) and rows.view(np.uint32).max() >= self.n_texts:
                    raise UsageError("the sparse index names a note that does not exist; remove it and make it again")
                self.is_checked[term] = True
            found.append((rows, (self.impacts[some], weights[i : i + 1])))
        texts, best = best_sums(found, k, scores, add_weighted)
        if self.n_texts == len(self.notes):  # each note has a text of its own
            return texts, best
        starts = self.note_starts[texts]
        sizes = self.note_starts[texts + 1] - starts
        return self.notes[ranges(starts, sizes)].astype(np.intp), np.repeat(best, sizes)


def add_weighted(scores: Scores, rows: Rows, impacts_and_weight: tuple[Scores, Scores]) -> None:
    """Add the weight of a term in a query times its weights in texts to the scores of these texts, which must exist.

    This is scipy's product of a sparse matrix of one column and a vector, added in place (`csc_matvec`, private, last
    checked in scipy 1.17). It takes a third of the time of `numpy.add.at`, lets other threads run, and checks no bound.
    """
    from scipy.sparse import _sparsetools

    impacts, weight = impacts_and_weight
    _sparsetools.csc_matvec(len(scores), 1, np.array([0, len(rows)], np.int32), rows, impacts, weight, scores)


def read_index(folder: Path) -> SparseIndex:
    """Open the index in this folder, memory-mapped and read-only.

    Raises:
        ValueError: if its files do not fit each other.
    """
    arrays = open_arrays(folder, FILES)
    if [array.dtype.str for array in arrays] != ["<i8", "<i4", "<f4", "<i8", "<i4"] or any(a.ndim != 1 for a in arrays):
        raise ValueError("its arrays are of other types")
    if not all(len(starts) and (np.diff(starts) >= 0).all() for starts in (arrays[0], arrays[3])):
        raise ValueError("its starts do not rise")
    index = SparseIndex._make([*arrays, np.zeros(len(arrays[0]) - 1, bool)])
    sizes = int(index.indptr[-1]), int(index.indptr[-1]), int(index.note_starts[-1])
    if sizes != (len(index.rows), len(index.impacts), len(index.notes)):
        raise ValueError("its arrays are of other lengths")
    if index.n_texts != len(index.notes) and index.notes.view(np.uint32).max(initial=0) >= len(index.notes):
        raise ValueError("it names a note that does not exist")
    return index
