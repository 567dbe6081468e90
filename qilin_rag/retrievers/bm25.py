"""BM25 over title and content, by bm25s; the index is built once and kept, keyed by corpus and settings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from array import array
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from qilin_rag.config import cache_dir
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.analyzers import ANALYZERS, Analyzer
from qilin_rag.retrievers.base import Retriever, rank_hits
from qilin_rag.types import Hit, Question

if TYPE_CHECKING:
    import bm25s

logger = logging.getLogger(__name__)


class BM25(Retriever):
    """BM25 with Lucene's idf (Kamphuis et al. 2020, "accurate" variant); defaults are Anserini's k1 and b.

    `analyzer`: `word` (jieba), `char`, or `cjk-bigram` (Lucene's CJKAnalyzer, as the dataset's own BM25 column).
    """

    k1: Annotated[float, Field(ge=0)] = 0.9
    b: Annotated[float, Field(ge=0, le=1)] = 0.4
    analyzer: Analyzer = "word"

    _index: tuple[str, bm25s.BM25] | None = PrivateAttr(default=None)

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """The best `k` notes of each question; those that share no term with it are no hits."""
        if not len(notes):
            return [[] for _ in questions]
        index = self._load_or_build(notes)
        analyze = ANALYZERS[self.analyzer]
        rankings = []
        n_tied = 0
        for question in questions:
            term_ids = index.get_tokens_ids(analyze(question.query))
            scores = index.get_scores_from_ids(term_ids) if term_ids else np.zeros(0, dtype=np.float32)
            hits, left_out = rank_hits(scores, notes.note_idxs[: len(scores)], k)
            rankings.append(hits)
            n_tied += left_out > 0
        if n_tied:
            logger.info("%d of %d rankings had ties at rank %d; lower note_idx stayed", n_tied, len(questions), k)
        return rankings

    def _load_or_build(self, notes: NoteStore) -> bm25s.BM25:
        """The index of these notes: from this object, else from the cache folder, else built and kept there."""
        described = self.identity() | {"notes": notes.sha256, "order": _order_digest(notes)}
        described |= {package: version(package) for package in ("bm25s", "regex", "rjieba")}
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        if self._index is None or self._index[0] != key:
            path = cache_dir() / "indexes" / f"bm25-{key[:24]}"
            self._index = key, _load(path, described) or _keep(self._build(notes), path, described)
        return self._index[1]

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


def _order_digest(notes: NoteStore) -> str:
    """Rows of the index are rows of the store, so the order of the notes is part of what an index fits."""
    return hashlib.sha256(notes.note_idxs.tobytes()).hexdigest()


def _load(path: Path, described: dict[str, Any]) -> bm25s.BM25 | None:
    """The kept index; None where there is none, or (said in a warning) only a damaged one, which is removed."""
    import bm25s

    if not path.exists():
        return None
    try:
        kept = json.loads((path / "qilin_rag.json").read_text(encoding="utf-8"))
        index = bm25s.BM25.load(path, mmap=True, show_progress=False)
        if kept != described | _sizes(index):
            raise ValueError("it was made for another corpus or other settings")
        return index
    except Exception as error:  # whatever a half-written or overwritten file makes numpy, json or bm25s raise
        logger.warning("the index %s is damaged (%s: %s); building it again", path, type(error).__name__, error)
        shutil.rmtree(path, ignore_errors=True)
        return None


def _sizes(index: bm25s.BM25) -> dict[str, int]:
    """What an index holds: terms and notes that have drifted apart are noticed by it."""
    scores = index.scores
    return {"n_terms": len(index.vocab_dict), "n_notes": scores["num_docs"], "n_postings": len(scores["data"])}


def _keep(index: bm25s.BM25, path: Path, described: dict[str, Any]) -> bm25s.BM25:
    """Save the index under `path` in one step; a read-only or full cache costs only the saving."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        index.save(temporary, show_progress=False)
        (temporary / "qilin_rag.json").write_text(
            json.dumps(described | _sizes(index), indent=2) + "\n", encoding="utf-8"
        )
        os.replace(temporary, path)  # noqa: PTH105 - fails where another process was first, which is fine
    except OSError as error:
        if not path.exists():
            logger.warning("the index can't be kept in %s (%s); it will be built again next time", path, error.strerror)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return index
