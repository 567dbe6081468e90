"""Retrieve with BM25 over title and content; the index is built once and kept, keyed by corpus and settings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
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
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS, Analyzer, analyzer_key
from qilin_rag.retrievers.bm25.batch import MANY_QUERIES, search_in_processes
from qilin_rag.retrievers.bm25.index import BM25Index, read_index
from qilin_rag.retrievers.index_files import IndexedRetriever
from qilin_rag.retrievers.postings import Candidates, ScoreArrays, Scores, available_cores, log_ties, rank_questions

logger = logging.getLogger(__name__)


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
    one_by_one: ClassVar[bool] = True
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

    _arrays: ScoreArrays = PrivateAttr(default_factory=ScoreArrays)

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
        n_processes = available_cores()
        if len(questions) >= MANY_QUERIES and n_processes > 1 and index.is_kept:
            queries = [question.query for question in questions]
            found = search_in_processes(index, self._analyzer_key, notes.note_idxs, queries, k, n_processes)
            log_ties((best.left_out for best in found), k)
            return [best.hits() for best in found]

        def find(number: int, scores: Scores) -> Candidates:
            return index.search(analyze(questions[number].query), k, scores)

        return rank_questions(find, questions, notes, k, self._arrays, len(notes))

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
        from qilin_rag.retrievers.bm25.build import write_index

        logger.info("indexing %s (bm25, %s)", counted(len(notes), "note"), self._analyzer_key)
        write_index(notes, folder, self._analyzer_key, self.k1, self.b, available_cores())

    def read_files(self, folder: Path) -> BM25Index:
        """Open the index, memory-mapped."""
        return read_index(folder)
