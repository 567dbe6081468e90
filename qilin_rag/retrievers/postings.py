"""Hold what indexes of terms share: postings on disk, the notes with the best sums of them, and their ranking.

A posting is a note that holds a term, with the weight of the term in it. The score of a note is the sum over the terms
of a query.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import save_array
from qilin_rag.core.progress import stage
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import rank_hits

logger = logging.getLogger(__name__)
Rows = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]
Candidates = tuple[npt.NDArray[np.intp], Scores]
"""Places of notes and their scores."""

# indptr.npy: the start of the postings of each term in rows.npy (places of notes, rising) and impacts.npy (weights).
FILES = ("indptr.npy", "rows.npy", "impacts.npy")
THREADED_NOTES = 1 << 18  # with fewer, switching between threads takes more time than they save
BLOCK_POSTINGS = 1 << 25  # postings that are merged in memory at a time
_SAMPLE_NOTES, _SPREAD_NOTES = 16384, 131072


class PostingShard(NamedTuple):
    """Postings of consecutive notes; those of the i-th of its terms are at `indptr[i] : indptr[i + 1]`."""

    terms: npt.NDArray[np.int32]
    """The numbers of its terms, rising."""
    indptr: npt.NDArray[np.int32]
    rows: npt.NDArray[np.uint16]
    """The places of notes within the shard, rising within a term."""
    values: npt.NDArray[Any]


class PostingMerge(NamedTuple):
    """The shards of an index, which are merged by term, some terms at a time.

    Attributes:
        shards: Yields the shards, each time anew.
        firsts: The place of the first note of each shard, shape (n_shards,).
        indptr: The start of the postings of each term in the index, shape (n_terms + 1,).
        impacts: Returns the weights in the index of postings of a shard, by terms, rows in the index and values.
    """

    shards: Callable[[], Iterator[PostingShard]]
    firsts: npt.NDArray[np.int64]
    indptr: npt.NDArray[np.int64]
    impacts: Callable[[npt.NDArray[np.int32], Rows, npt.NDArray[Any]], npt.NDArray[np.floating]]

    def write(self, indptr: Path, rows: Path, impacts: Path) -> None:
        """Write the files of the postings (`FILES`)."""
        save_array(indptr, self.indptr)
        with rows.open("wb") as row_file, impacts.open("wb") as impact_file:
            _write_header(row_file, "<i4", int(self.indptr[-1]))
            _write_header(impact_file, "<f4", int(self.indptr[-1]))
            for block_rows, block_impacts in self._blocks():
                row_file.write(block_rows.data)
                impact_file.write(block_impacts.data)

    def _blocks(self) -> Iterator[tuple[Rows, Scores]]:
        """Yield the postings of all terms in order, those of some terms at a time."""
        start, n_terms = 0, len(self.indptr) - 1
        with stage("merging terms", n_terms) as advance:
            while start < n_terms:
                end = int(np.searchsorted(self.indptr, self.indptr[start] + BLOCK_POSTINGS, "right")) - 1
                end = max(start + 1, min(end, n_terms))
                yield self._block(start, end)
                advance(end - start)
                start = end

    def _block(self, start: int, end: int) -> tuple[Rows, Scores]:
        """Gather the postings of the terms from `start` up to `end` from all shards."""
        free = self.indptr[start:end] - self.indptr[start]  # the place of the next posting of each term
        size = int(self.indptr[end] - self.indptr[start])
        rows, impacts = np.empty(size, np.int32), np.empty(size, np.float32)
        for shard, first in zip(self.shards(), self.firsts.tolist(), strict=True):
            low, high = np.searchsorted(shard.terms, [start, end])
            terms = shard.terms[low:high]
            indptr = shard.indptr[low : high + 1]
            postings = slice(indptr[0], indptr[-1])
            sizes = np.diff(indptr)
            at = np.repeat(free[terms - start] - (indptr[:-1] - indptr[0]), sizes) + np.arange(indptr[-1] - indptr[0])
            of_index = shard.rows[postings].astype(np.int32) + np.int32(first)
            rows[at] = of_index
            impacts[at] = self.impacts(np.repeat(terms, sizes), of_index, shard.values[postings])
            free[terms - start] += sizes
        return rows, impacts


def best_sums(
    found: Sequence[tuple[Rows, Any]], k: int, scores: Scores, add: Callable[[Scores, Rows, Any], None]
) -> Candidates:
    """Return places and scores of notes that share a term, among them the best `k` and all ties with the last.

    Args:
        found: The postings of each term of a query: rows without duplicates, and what `add` makes scores of.
        k: The number of best notes to include.
        scores: Zeros, shape (n_notes,); they are zeros again afterwards.
        add: Adds the postings of one term to the scores.
    """
    for rows, impacts in found:
        add(scores, rows, impacts)
    has_many = sum(len(rows) for rows, _ in found) > len(scores) // 4
    candidates = _candidates(scores, k, [rows for rows, _ in found], has_many)
    best = scores[candidates]
    if has_many:
        scores.fill(0)
    else:
        for rows, _ in found:
            scores[rows] = 0
    return candidates, best


def _candidates(scores: Scores, k: int, found: Sequence[Rows], has_many: bool) -> npt.NDArray[np.intp]:
    """Return the places of all notes that score at least as high as the k-th best of some of them.

    These are notes of the rarest term; if terms have many postings, also notes of the whole corpus, since a rare term
    then says little about the best notes.
    """
    enough = min((rows for rows in found if len(rows) >= k), key=len, default=None)
    if enough is None:
        return np.unique(np.concatenate([np.zeros(0, np.int32), *found])).astype(np.intp)
    some = scores[enough[:: max(1, len(enough) // max(k, _SAMPLE_NOTES))]]
    least = np.partition(some, -k)[-k]
    spread = scores[:: max(1, len(scores) // _SPREAD_NOTES)]
    if has_many and len(spread) >= k:
        least = max(least, np.partition(spread, -k)[-k])
    return np.flatnonzero(scores >= least)


class ScoreArrays:
    """Arrays of zeros for the scores of notes, one for each thread, used again."""

    def __init__(self) -> None:
        """Begin without an array."""
        self._free: list[Scores] = []

    def take(self, n_notes: int) -> Scores:
        """Return an array of zeros that no other thread uses."""
        try:
            scores = self._free.pop()
        except IndexError:  # no check beforehand: another thread may take the last one
            scores = np.zeros(0, np.float32)
        return scores if len(scores) == n_notes else np.zeros(n_notes, np.float32)

    def give_back(self, scores: Scores) -> None:
        """Keep an array, which is zeros again, for the next search."""
        self._free.append(scores)


def rank_questions(
    find: Callable[[int, Scores], Candidates],
    questions: Sequence[Question],
    notes: NoteStore,
    k: int,
    arrays: ScoreArrays,
    n_scores: int,
    threaded: bool = False,
) -> list[list[Hit]]:
    """Return the best `k` notes of each question.

    Args:
        find: Returns places and scores of notes by the number of a question and an array of zeros for scores. A note
            that does not score above 0 is not a hit.
        questions: The questions.
        notes: The notes.
        k: The most hits of a question.
        arrays: The arrays for scores.
        n_scores: The length of such an array.
        threaded: Whether several threads search if there are many notes; `find` must let them run.
    """
    n_threads = min(available_cores(), len(questions)) if threaded and len(notes) >= THREADED_NOTES else 1

    def rank(numbers: Sequence[int]) -> list[tuple[list[Hit], int]]:
        scores = arrays.take(n_scores)
        ranked = []
        for number in numbers:
            places, found = find(number, scores)
            ranked.append(rank_hits(found, notes.note_idxs[places], k, questions[number].query))
        arrays.give_back(scores)
        return ranked

    if n_threads == 1:
        ranked = rank(range(len(questions)))
    else:
        with ThreadPoolExecutor(n_threads) as threads:
            by_thread = list(threads.map(rank, (range(i, len(questions), n_threads) for i in range(n_threads))))
        ranked = [by_thread[i % n_threads][i // n_threads] for i in range(len(questions))]
    log_ties((left_out for _, left_out in ranked), k)
    return [hits for hits, _ in ranked]


def log_ties(left_out: Iterable[int], k: int) -> None:
    """Log how many rankings left notes out that tie with their last hit."""
    numbers = list(left_out)
    if n_tied := sum(number > 0 for number in numbers):
        logger.info("%d of %d rankings had ties at rank %d; a hash decided which notes stayed", n_tied, len(numbers), k)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_arrays(folder: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Open arrays of a folder, memory-mapped and read-only."""
    mapped = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in names)
    return [array.view(np.ndarray) for array in mapped]  # numpy.memmap is slow to slice


def _write_header(file: IO[bytes], kind: str, size: int) -> None:
    header = {"descr": kind, "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, header)
