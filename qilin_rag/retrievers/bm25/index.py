"""Search a memory-mapped index of BM25 scores by term.

What a term adds to the score of a note is computed when the index is built (Lù 2024, BM25S), in double precision, and
stored in single precision. The score of a note is the sum over the terms of a query.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import positions_in
from qilin_rag.retrievers import postings
from qilin_rag.retrievers.postings import Candidates, Rows, Scores, best_sums, open_arrays

# terms.npy: the UTF-8 of all terms in order; offsets.npy: the start of each; and the files of the postings, whose
# impacts are what a term adds to the score of a note.
FILES = ("terms.npy", "offsets.npy", *postings.FILES)


BLOCK_POSTINGS = 65536  # postings that fit a core's cache


class BM25Index(NamedTuple):
    """Postings by term; those of term i are at `indptr[i] : indptr[i + 1]`."""

    terms: memoryview
    offsets: npt.NDArray[np.int64]
    indptr: npt.NDArray[np.int64]
    rows: Rows
    impacts: Scores

    def postings(self, terms: Sequence[str]) -> list[tuple[Rows, Scores]]:
        """Return the notes of each term that the index holds, with what the term adds to their scores.

        A term that is given n times counts n times.
        """
        found = []
        for term, n in Counter(terms).items():
            if (i := self._find(term)) is not None:
                some = slice(self.indptr[i], self.indptr[i + 1])
                found.append((self.rows[some], self.impacts[some] if n == 1 else self.impacts[some] * np.float32(n)))
        return found

    def search(self, terms: Sequence[str], k: int, scores: Scores, threaded: bool = False) -> Candidates:
        """Return places and scores of notes that share a term, among them the best `k` and all ties with the last.

        Args:
            terms: The terms of the query.
            k: The number of best notes to include.
            scores: Zeros, shape (n_notes,); they are zeros again afterwards.
            threaded: Whether other threads search at the same time.
        """
        return best_sums(self.postings(terms), k, scores, _add_beside if threaded else np.add.at)

    def scores_of(self, terms: Sequence[str], places: npt.NDArray[np.int64]) -> Scores:
        """Return the scores of the notes in these places; 0 for a note that shares no term."""
        wanted = places.astype(np.int32)
        scores = np.zeros(len(places), np.float32)
        for rows, impacts in self.postings(terms):
            at = positions_in(rows, wanted)
            scores += np.where(at >= 0, impacts[at], np.float32(0))
        return scores

    def _find(self, term: str) -> int | None:
        def spelled(i: int) -> bytes:
            return self.terms[self.offsets[i] : self.offsets[i + 1]].tobytes()

        n_terms, wanted = len(self.offsets) - 1, term.encode("utf-8", "surrogatepass")
        i = bisect_left(range(n_terms), wanted, key=spelled)
        return i if i < n_terms and spelled(i) == wanted else None


def _add_beside(scores: Scores, rows: Rows, impacts: Scores) -> None:
    """Add impacts like `numpy.add.at`, in a way that lets other threads run; each row occurs once.

    Alone it has 0.6 of the speed of `numpy.add.at`, which holds the GIL.
    """
    for start in range(0, len(rows), BLOCK_POSTINGS):
        some = rows[start : start + BLOCK_POSTINGS].astype(np.intp)
        scores[some] += impacts[start : start + BLOCK_POSTINGS]


def read_index(folder: Path) -> BM25Index:
    """Open the index in this folder, memory-mapped and read-only."""
    terms, *arrays = open_arrays(folder, FILES)
    return BM25Index(terms.data, *arrays)
