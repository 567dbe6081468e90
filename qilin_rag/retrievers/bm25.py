"""BM25 over title and content, by bm25s; the index is built once and kept, keyed by corpus and settings."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from qilin_rag.data import NoteStore
from qilin_rag.retrievers.analyzers import ANALYZERS, Analyzer
from qilin_rag.retrievers.base import rank_hits
from qilin_rag.retrievers.kept_index import IndexedRetriever
from qilin_rag.types import Hit, Question

if TYPE_CHECKING:
    import bm25s

logger = logging.getLogger(__name__)


class BM25(IndexedRetriever):
    """BM25 with Lucene's idf (Kamphuis et al. 2020, "accurate" variant); defaults are Anserini's k1 and b.

    `analyzer`: `word` (jieba), `char`, or `cjk-bigram` (Lucene's CJKAnalyzer, as the dataset's own BM25 column).
    """

    nested: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("bm25s", "regex", "rjieba")

    k1: Annotated[float, Field(ge=0)] = 0.9
    b: Annotated[float, Field(ge=0, le=1)] = 0.4
    analyzer: Analyzer = "word"

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """The best `k` notes of each question; those that share no term with it are no hits."""
        if not len(notes):
            return [[] for _ in questions]
        rankings = []
        n_tied = 0
        for scores in self.scores([question.query for question in questions], notes):
            hits, left_out = rank_hits(scores, notes.note_idxs, k)
            rankings.append(hits)
            n_tied += left_out > 0
        if n_tied:
            logger.info("%d of %d rankings had ties at rank %d; lower note_idx stayed", n_tied, len(questions), k)
        return rankings

    def scores(self, queries: Iterable[str], notes: NoteStore) -> Iterator[npt.NDArray[np.float32]]:
        """For each query the score of every note, (n_notes,) in the order of the store; 0 where they share no term."""
        index: bm25s.BM25 = self.open_index(notes)
        analyze = ANALYZERS[self.analyzer]
        for query in queries:
            term_ids = index.get_tokens_ids(analyze(query))
            yield index.get_scores_from_ids(term_ids) if term_ids else np.zeros(len(notes), dtype=np.float32)

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """bm25s' own format: a sparse matrix in .npy files, the vocabulary in JSON."""
        self._build(notes).save(folder, show_progress=False)

    def read_files(self, folder: Path) -> bm25s.BM25:
        """The index with its matrix memory-mapped."""
        import bm25s

        return bm25s.BM25.load(folder, mmap=True, show_progress=False)

    def _build(self, notes: NoteStore) -> bm25s.BM25:
        import bm25s

        logger.info("indexing %d notes (bm25, %s)", len(notes), self.analyzer)
        analyze = ANALYZERS[self.analyzer]
        vocabulary: dict[str, int] = {"": 0}  # bm25s scores documents and queries without terms by this entry
        corpus: list[npt.NDArray[np.int32]] = []
        for note in notes:
            ids = array("i", (vocabulary.setdefault(term, len(vocabulary)) for term in analyze(note.text)))
            corpus.append(np.array(ids, dtype=np.int32))
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        with np.errstate(invalid="ignore"):  # 0/0 where no note holds any term: their average length is 0
            index.index((corpus, vocabulary), show_progress=False)
        return index
