"""An index of BM25 scores by term, memory-mapped, and how it is searched.

What a term adds to the score of a note was computed when the index was built (Lù 2024, BM25S), in double precision,
and is kept in single. Scores are sums of these.
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

Scores = npt.NDArray[np.float32]


# terms.npy: the UTF-8 of all terms in order; offsets.npy: where each begins; indptr.npy: where the postings of each
# begin in rows.npy (places of notes in the store, rising) and impacts.npy (what the term adds to the note's score).
FILES = ("terms.npy", "offsets.npy", "indptr.npy", "rows.npy", "impacts.npy")


_SAMPLE_NOTES = 16384
BLOCK_POSTINGS = 65536  # postings that fit a core's cache


class BM25Index(NamedTuple):
    """Postings by term; those of term i stand at `indptr[i] : indptr[i + 1]`."""

    terms: memoryview
    offsets: npt.NDArray[np.int64]
    indptr: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    impacts: Scores

    def postings(self, terms: Sequence[str]) -> list[tuple[npt.NDArray[np.int32], Scores]]:
        """Notes and what is added to their scores, for each of these terms that a note holds.

        A term that stands there n times counts n times.
        """
        found = []
        for term, n in Counter(terms).items():
            if (i := self._find(term)) is not None:
                some = slice(self.indptr[i], self.indptr[i + 1])
                found.append((self.rows[some], self.impacts[some] if n == 1 else self.impacts[some] * np.float32(n)))
        return found

    def search(
        self, terms: Sequence[str], k: int, scores: Scores, threaded: bool = False
    ) -> tuple[npt.NDArray[np.intp], Scores]:
        """Places and scores of some notes that share a term, among them the best `k` and all that tie with the last.

        `scores` is an array of a zero for each note, and is left so. `threaded`: others search at the same time.
        """
        found = self.postings(terms)
        for rows, impacts in found:
            (_add_beside if threaded else np.add.at)(scores, rows, impacts)
        candidates = _candidates(scores, k, [rows for rows, _ in found])
        best = scores[candidates]
        if sum(len(rows) for rows, _ in found) > len(scores) // 4:
            scores.fill(0)
        else:
            for rows, _ in found:
                scores[rows] = 0
        return candidates, best

    def scores_of(self, terms: Sequence[str], places: npt.NDArray[np.int64]) -> Scores:
        """The scores of the notes in these places; 0 where they share no term."""
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


def _add_beside(scores: Scores, rows: npt.NDArray[np.int32], impacts: Scores) -> None:
    """`numpy.add.at` at 0.6 of its speed, but it lets other threads run, as that does not; each row is there once."""
    for start in range(0, len(rows), BLOCK_POSTINGS):
        some = rows[start : start + BLOCK_POSTINGS].astype(np.intp)
        scores[some] += impacts[start : start + BLOCK_POSTINGS]


def _candidates(scores: Scores, k: int, found: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.intp]:
    """Places of all notes that score at least as the k-th of some of them does."""
    enough = min((rows for rows in found if len(rows) >= k), key=len, default=None)
    if enough is None:
        return np.unique(np.concatenate([np.zeros(0, np.int32), *found])).astype(np.intp)
    some = scores[enough[:: max(1, len(enough) // max(k, _SAMPLE_NOTES))]]
    return np.flatnonzero(scores >= np.partition(some, -k)[-k])


def read_index(folder: Path) -> BM25Index:
    """The index in this folder, memory-mapped, not to be written to."""
    mapped = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in FILES)
    terms, *arrays = (array.view(np.ndarray) for array in mapped)  # numpy.memmap is slow to take slices of
    return BM25Index(memoryview(terms), *arrays)
