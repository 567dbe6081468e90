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

from qilin_rag.retrievers import postings
from qilin_rag.retrievers.bm25.pruning import best_sums, sums_of
from qilin_rag.retrievers.postings import Candidates, Rows, Scores, open_arrays

# terms.npy: the UTF-8 of all terms in order; offsets.npy: the start of each; and the files of the postings, whose
# impacts are what a term adds to the score of a note.
FILES = ("terms.npy", "offsets.npy", *postings.FILES)


class BM25Index(NamedTuple):
    """Postings by term; those of term i are at `indptr[i] : indptr[i + 1]`."""

    folder: Path
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

    @property
    def is_kept(self) -> bool:
        """Return whether the files still exist, so that another process can open them."""
        return all((self.folder / name).is_file() for name in FILES)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of bytes of all terms, of terms and of postings."""
        return len(self.terms), len(self.offsets) - 1, len(self.rows)

    def search(self, terms: Sequence[str], k: int, scores: Scores) -> Candidates:
        """Return places and scores of notes that share a term, among them the best `k` and all ties with the last.

        Args:
            terms: The terms of the query.
            k: The number of best notes to include.
            scores: Zeros, shape (n_notes,); they are zeros again afterwards.
        """
        return best_sums(self.postings(terms), k, scores)

    def scores_of(self, terms: Sequence[str], places: npt.NDArray[np.int64]) -> Scores:
        """Return the scores of the notes in these places; 0 for a note that shares no term."""
        return sums_of(self.postings(terms), places)

    def _find(self, term: str) -> int | None:
        def spelled(i: int) -> bytes:
            return self.terms[self.offsets[i] : self.offsets[i + 1]].tobytes()

        n_terms, wanted = len(self.offsets) - 1, term.encode("utf-8", "surrogatepass")
        i = bisect_left(range(n_terms), wanted, key=spelled)
        return i if i < n_terms and spelled(i) == wanted else None


def read_index(folder: Path) -> BM25Index:
    """Open the index in this folder, memory-mapped and read-only."""
    terms, *arrays = open_arrays(folder, FILES)
    return BM25Index(folder, terms.data, *arrays)
