"""Retrieve by learned sparse vectors: encode query and notes as weighted terms, and sum products over shared terms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt, PrivateAttr

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.text import counted
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.models.prefixes import Prefixes, declared_prefixes
from qilin_rag.models.pretrained import fetch_model, model_sha256
from qilin_rag.models.sentence_encoder import Task
from qilin_rag.models.sparse_encoder import (
    SparseVectors,
    compares_by_cosine,
    encode_sparse,
    joined,
    load_sparse_encoder,
    sparse_kind,
)
from qilin_rag.retrievers.base import rows_by_task
from qilin_rag.retrievers.index_files import IndexedRetriever
from qilin_rag.retrievers.postings import Candidates, ScoreArrays, Scores, rank_questions
from qilin_rag.retrievers.sparse.build import write_index
from qilin_rag.retrievers.sparse.index import SparseIndex, read_index

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder

logger = logging.getLogger(__name__)
_MANY_TERMS = 2000  # SPLADE notes have some hundred


class LearnedSparse(IndexedRetriever):
    """Learned sparse retrieval: a model gives terms of questions and notes weights, and an inverted index adds them up.

    The model is a `SparseEncoder` of sentence-transformers (SPLADE, CSR, inference-free), or BGE-M3 with its sparse
    head. The score of a note is the dot product of both vectors, in fp32. A note whose score is not above 0 is not a
    hit. Notes are encoded once, and kept in an index.

    Example:
        >>> LearnedSparse(model="naver/splade-v3", max_active_dims=128).changed()
        {'model': 'naver/splade-v3', 'max_active_dims': 128}
    """

    argument: ClassVar[str | None] = "model"
    operational: ClassVar[frozenset[str]] = IndexedRetriever.operational | {"batch_size", "device"}
    index_version: ClassVar[int] = 1
    """The version of the notes' vectors, which take long to make; raised when they change."""
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")
    nested: ClassVar[bool] = True
    encodes: ClassVar[bool] = True

    model: str = "BAAI/bge-m3"
    """A folder or a hub name of a SparseEncoder, of a masked language model trained as SPLADE, or of BGE-M3."""
    query_prefix: str | None = None
    """Text before each question; "" for none. Default: as the model's files declare."""
    passage_prefix: str | None = None
    """Text before each note; "" for none. Default: as the model's files declare."""
    max_length: Annotated[int, Field(ge=3)] | None = None
    """The most tokens of a text that are read, from 3. Default: that of the model's files."""
    max_active_dims: PositiveInt | None = None
    """The most terms of a question or note, those with the largest weights. Default: as the model says, else all."""
    batch_size: PositiveInt | None = None
    """The most texts of full length encoded at a time. Default: by the number of tokens and terms."""
    device: str | None = None
    """A torch device. Default: a GPU if there is one."""

    _found: tuple[Path, str] | None = PrivateAttr(default=None)
    _is_warned: bool = PrivateAttr(default=False)
    _encoder: SparseEncoder | None = PrivateAttr(default=None)
    _arrays: ScoreArrays = PrivateAttr(default_factory=ScoreArrays)

    def identity(self) -> dict[str, Any]:
        """Identify the model by its content, not its path; and prefixes by the values in use."""
        folder, sha256 = self._find_model()
        sparse_kind(folder, self.model)
        prefixes = self._prefixes()
        return super().identity() | {
            "model": sha256,
            "query_prefix": prefixes.query,
            "passage_prefix": prefixes.passage,
        }

    def index_identity(self) -> dict[str, Any]:
        """Return the settings that the notes' vectors depend on: all but those of queries."""
        require("neural", "torch", "sentence_transformers", "scipy", what="retriever sparse")
        identity = self.identity() | {"version": self.index_version}
        return {name: value for name, value in identity.items() if name != "query_prefix"}

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the best `k` notes of each question, of those whose score is above 0."""
        if not len(notes) or not questions:
            return [[] for _ in questions]
        index: SparseIndex = self.open_index(notes)
        queries = self._encode_questions(questions)
        if queries.n_terms > index.n_terms:
            raise UsageError(
                f"model {self.model!r} gives questions {queries.n_terms} terms and notes {index.n_terms}; name a model "
                "of one vocabulary"
            )

        def find(number: int, scores: Scores) -> Candidates:
            some = slice(queries.indptr[number], queries.indptr[number + 1])
            return index.search(queries.terms[some].tolist(), queries.weights[some], k, scores)

        return rank_questions(find, questions, notes, k, self._arrays, index.n_texts, threaded=True)

    def _encode_questions(self, questions: Sequence[Question]) -> SparseVectors:
        """Encode the texts of questions; a hypothetical passage is encoded as notes are (HyDE)."""
        rows = rows_by_task(questions)
        parts = []
        for task, chosen in rows.items():
            kind = "query" if task == "query" else "passage"
            logger.info("encoding %s, prefix %r", counted(len(chosen), kind), getattr(self._prefixes(), kind))
            texts = [questions[row].query for row in chosen]
            parts.append(self._encode(texts, task, [f"query {questions[row].id}" for row in chosen]))
        return joined(parts).take(np.argsort(np.concatenate(list(rows.values()))))

    def check(self) -> str:
        """Say which model is read; raise a QilinError if it can't be used here."""
        folder = self._find_model()[0]
        kinds = {"saved": "a SparseEncoder", "lexical": "with the sparse head of BGE-M3", "masked-lm": "read as SPLADE"}
        place = "" if str(folder) == self.model else f", in {folder}"
        return f"model {self.model}{place}: {kinds[sparse_kind(folder, self.model)]}"

    def embed_queries(self, queries: Sequence[str]) -> SparseVectors:
        """Encode queries as sparse vectors."""
        return self._encode(queries, "query", [f"query {query!r}" for query in queries])

    def embed_notes(self, texts: Sequence[str]) -> SparseVectors:
        """Encode the texts of notes (`Note.text`) as sparse vectors."""
        return self._encode(texts, "document", [f"note {text[:50]!r}" for text in texts])

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """Write the files of the index (`sparse.index`)."""
        prefix = self._prefixes().passage
        logger.info("indexing %s (sparse, %s, passage prefix %r)", counted(len(notes), "note"), self.model, prefix)
        write_index(notes, folder, self._encode_notes)
        index = read_index(folder)
        logger.info("a note has %.0f of %s terms on average", len(index.rows) / index.n_texts, f"{index.n_terms:,}")

    def read_files(self, folder: Path) -> SparseIndex:
        """Open the index, memory-mapped."""
        return read_index(folder)

    def _find_model(self) -> tuple[Path, str]:
        """Return the folder of the model and the hash of its content; fetch it if it is not on this machine."""
        if self._found is None:
            folder = fetch_model(self.model)
            self._found = folder, model_sha256(folder)
        return self._found

    def _prefixes(self) -> Prefixes:
        given = (self.query_prefix, self.passage_prefix)
        own = declared_prefixes(self._find_model()[0])
        return Prefixes(*(mine if text is None else text for text, mine in zip(given, own, strict=True)))

    def _encode_notes(self, texts: Sequence[str], names: Sequence[str]) -> SparseVectors:
        """Encode notes; warn once if they have so many terms that an inverted index is the wrong one."""
        vectors = self._encode(texts, "document", names)
        if not self._is_warned and (mean := len(vectors.terms) / len(texts)) > _MANY_TERMS:
            self._is_warned = True
            logger.warning(
                "model %r gives a note %.0f terms on average: it is hardly trained to be sparse, and search will be "
                "slow; name another model, or set max_active_dims",
                *(self.model, mean),
            )
        return vectors

    def _encode(self, texts: Sequence[str], task: Task, names: Sequence[str]) -> SparseVectors:
        prefixes = self._prefixes()
        folder, _ = self._find_model()
        if self._encoder is None:
            self._encoder = load_sparse_encoder(folder, self.model, self.device, self.max_length)
        return encode_sparse(
            self._encoder,
            texts,
            prefixes.query if task == "query" else prefixes.passage,
            task=task,
            cosine=compares_by_cosine(folder, self.model),
            max_active_dims=self.max_active_dims,
            batch_size=self.batch_size,
            named=(self.model, names),
        )
