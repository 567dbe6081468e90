"""BM25 over title and content; the index is built once and kept, keyed by corpus and settings."""

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
THREADED_NOTES = 1 << 18  # with fewer, threads take more time to take turns than they save


class BM25(IndexedRetriever):
    """BM25 with Lucene's idf (Kamphuis et al. 2020, "accurate" variant); defaults are Anserini's k1 and b.

    `analyzer`: `word` (jieba), `char`, or `cjk-bigram` (Lucene's CJKAnalyzer, as the dataset's own BM25 column). With
    `simplify` traditional characters of queries and notes are read as simplified ones (OpenCC).

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
    b: Annotated[float, Field(ge=0, le=1)] = 0.4
    analyzer: Analyzer = "word"
    simplify: bool = False

    _zeros: list[Scores] = PrivateAttr(default_factory=list)  # a zero for each note: one a thread, used again

    def index_identity(self) -> dict[str, Any]:
        """The settings that an index depends on, and the version of the characters' table."""
        if not self.simplify:
            return self.identity()
        require("han", "opencc", what="simplify")
        return self.identity() | {"opencc": version("opencc")}

    @property
    def _analyzer_key(self) -> str:
        return analyzer_key(self.analyzer, self.simplify)

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """The best `k` notes of each question; those that share no term with it are no hits."""
        if not len(notes) or not questions:
            return [[] for _ in questions]
        index: BM25Index = self.open_index(notes)
        analyze = ANALYZERS[self._analyzer_key]

        n_threads = min(_available_cores(), len(questions)) if len(notes) >= THREADED_NOTES else 1

        def rank(some: Sequence[Question]) -> list[tuple[list[Hit], int]]:
            try:
                scores = self._zeros.pop()
            except IndexError:  # not looked at first: another thread may take the last one
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
        """For each query the scores of the notes in these places of the store; 0 where they share no term."""
        index: BM25Index = self.open_index(notes)
        analyze = ANALYZERS[self._analyzer_key]
        for query, some in zip(queries, places, strict=True):
            yield index.scores_of(analyze(query), some)

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """Five .npy files (`bm25_index`)."""
        logger.info("indexing %s (bm25, %s)", counted(len(notes), "note"), self._analyzer_key)
        write_index(notes, folder, self._analyzer_key, self.k1, self.b, _available_cores())

    def read_files(self, folder: Path) -> BM25Index:
        """The index, memory-mapped."""
        return read_index(folder)


def _available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
