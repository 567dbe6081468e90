"""Retrieve with BM25 over title and content; the index is built once and kept, keyed by corpus and settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from qilin_rag.core.extras import require
from qilin_rag.core.text import counted
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import rank_hits
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS, Analyzer, analyzer_key
from qilin_rag.retrievers.bm25.build import write_index
from qilin_rag.retrievers.bm25.index import BM25Index, Scores, read_index
from qilin_rag.retrievers.index_files import IndexedRetriever

logger = logging.getLogger(__name__)
THREADED_NOTES = 1 << 18  # with fewer, switching between threads takes more time than they save


class BM25(IndexedRetriever):
    """BM25 with Lucene's idf over title and content of the notes.

    The formula is the "accurate" variant of Kamphuis et al. 2020; the defaults of `k1` and `b` are Anserini's. A note
    that shares no term with the question is not a hit.

    Example:
        >>> import qilin_rag as qr
        >>> qr.run(retriever=qr.BM25(k1=1.2, analyzer="char"), limit=20, metrics="rouge_l").metrics["recall@5"].n
        20
    """

    version: ClassVar[int] = 3
    nested: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("regex", "rjieba")
    only_if_set: ClassVar[frozenset[str]] = frozenset({"simplify"})

    k1: Annotated[float, Field(ge=0)] = 0.9
    """Saturation of the term frequency, a number from 0: the higher, the more each further occurrence of a term counts.
    """
    b: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Normalisation by the length of the note, from 0 (none) to 1 (full)."""
    analyzer: Analyzer = "word"
    """How text becomes terms: word (jieba), char, or cjk-bigram (Lucene's CJKAnalyzer, as in the dataset's own BM25
    results).
    """
    simplify: bool = False
    """Whether traditional characters of questions and notes are read as simplified ones (OpenCC, extra `han`)."""

    _zeros: list[Scores] = PrivateAttr(default_factory=list)  # zeros for each note, one array a thread, used again

    def index_identity(self) -> dict[str, Any]:
        """Return the settings that an index depends on, and the version of the table of characters."""
        if not self.simplify:
            return self.identity()
        require("han", "opencc", what="simplify")
        return self.identity() | {"opencc": version("opencc")}

    @property
    def _analyzer_key(self) -> str:
        return analyzer_key(self.analyzer, self.simplify)

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the best `k` notes of each question; a note that shares no term with it is not a hit."""
        if not len(notes) or not questions:
            return [[] for _ in questions]
        index: BM25Index = self.open_index(notes)
        analyze = ANALYZERS[self._analyzer_key]

        n_threads = min(_available_cores(), len(questions)) if len(notes) >= THREADED_NOTES else 1

        def rank(some: Sequence[Question]) -> list[tuple[list[Hit], int]]:
            try:
                scores = self._zeros.pop()
            except IndexError:  # no check beforehand: another thread may take the last one
                scores = np.zeros(0, np.float32)
            scores = scores if len(scores) == len(notes) else np.zeros(len(notes), np.float32)
            ranked = []
            for question in some:
                places, found = index.search(analyze(question.query), k, scores, threaded=n_threads > 1)
                ranked.append(rank_hits(found, notes.note_idxs[places], k, question.query))
            self._zeros.append(scores)
            return ranked

        if n_threads == 1:
            ranked = rank(questions)
        else:
            with ThreadPoolExecutor(n_threads) as threads:
                by_thread = list(threads.map(rank, (questions[i::n_threads] for i in range(n_threads))))
            ranked = [by_thread[i % n_threads][i // n_threads] for i in range(len(questions))]
        if n_tied := sum(left_out > 0 for _, left_out in ranked):
            logger.info(
                "%d of %d rankings had ties at rank %d; a hash decided which notes stayed", n_tied, len(questions), k
            )
        return [hits for hits, _ in ranked]

    def scores(
        self, queries: Iterable[str], notes: NoteStore, places: Iterable[npt.NDArray[np.int64]]
    ) -> Iterator[Scores]:
        """Yield for each query the scores of the notes in these places of the store; 0 if they share no term."""
        index: BM25Index = self.open_index(notes)
        analyze = ANALYZERS[self._analyzer_key]
        for query, some in zip(queries, places, strict=True):
            yield index.scores_of(analyze(query), some)

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """Write the five .npy files of the index (`bm25.index`)."""
        logger.info("indexing %s (bm25, %s)", counted(len(notes), "note"), self._analyzer_key)
        write_index(notes, folder, self._analyzer_key, self.k1, self.b, _available_cores())

    def read_files(self, folder: Path) -> BM25Index:
        """Open the index, memory-mapped."""
        return read_index(folder)


def _available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
