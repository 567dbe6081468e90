"""Search many queries in several processes, each of which maps the same index into its memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import QilinError
from qilin_rag.core.processes import in_processes
from qilin_rag.retrievers.base import BestNotes, best_notes
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS
from qilin_rag.retrievers.bm25.index import BM25Index, read_index

MANY_QUERIES = 8192  # with fewer, starting processes takes more time than they save
_QUERIES_AT_ONCE = 256


class _Opened(NamedTuple):
    """The index as a process of its own has opened it."""

    searched: BM25Index
    analyzer: str
    note_idxs: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


_opened: list[_Opened] = []


def search_in_processes(
    index: BM25Index,
    analyzer: str,
    note_idxs: npt.NDArray[np.int64],
    queries: Sequence[str],
    k: int,
    n_processes: int,
) -> list[BestNotes]:
    """Return the best `k` notes of each query.

    Args:
        index: The index, whose files still exist.
        analyzer: The key of the analyzer.
        note_idxs: The notes by their place in the store, shape (n_notes,).
        queries: The queries.
        k: The most notes of a query.
        n_processes: The number of processes.

    Raises:
        QilinError: if a process ends, or the index was replaced in the meantime.
    """
    starts = range(0, len(queries), _QUERIES_AT_ONCE)
    items = ((start, queries[start : start + _QUERIES_AT_ONCE], k) for start in starts)
    given = (index.folder.resolve(), index.sizes, analyzer, note_idxs)
    who = "a process that searches"
    with closing(in_processes(n_processes, _search, items, who, begin=_begin, given=given)) as results:
        by_start = dict(results)
    return [best for start in starts for best in by_start[start]]


def _begin(folder: Path, sizes: tuple[int, ...], analyzer: str, note_idxs: npt.NDArray[np.int64]) -> None:
    index = read_index(folder)
    if index.sizes == sizes:
        _opened.append(_Opened(index, analyzer, note_idxs, np.zeros(len(note_idxs), np.float32)))


def _search(item: tuple[int, Sequence[str], int]) -> tuple[int, list[BestNotes]]:
    start, queries, k = item
    if not _opened:
        raise QilinError("the index was replaced while it was searched; run the command again")
    index, analyzer, note_idxs, scores = _opened[0]
    analyze = ANALYZERS[analyzer]
    best = []
    for query in queries:
        places, found = index.search(analyze(query), k, scores)
        best.append(best_notes(found, note_idxs[places], k, query))
    return start, best
