"""Retrieve with one late-interaction model (ColBERT): the best note for each token of the question, over all notes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.progress import stage
from qilin_rag.core.text import counted, estimate_tokens
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.models.late_interaction import (
    TokenVectors,
    check_is_late_interaction,
    encode_tokens,
    load_multi_vector,
    token_shape,
)
from qilin_rag.models.pretrained import fetch_model, model_sha256
from qilin_rag.models.sentence_encoder import Task
from qilin_rag.retrievers.base import rank_hits, rows_by_task
from qilin_rag.retrievers.index_files import IndexedRetriever
from qilin_rag.retrievers.multivector.search import all_scores
from qilin_rag.retrievers.multivector.shards import TokenIndex, open_token_vectors, write_token_vectors

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder

logger = logging.getLogger(__name__)
_OF_QUERIES = ("query_prefix",)
_SAMPLED = 1_000  # notes whose tokens are estimated, for all
_MARKS = 4  # tokens around a text


class MultiVector(IndexedRetriever):
    """Late interaction (ColBERT): each token of the question looks for its nearest token of a note.

    The score of a note is the sum of these similarities (MaxSim), as `MultiVectorEncoder.similarity` of
    sentence-transformers computes it. Every note is compared. Token vectors need a hundred times the disk of one vector
    a note, so that this is for small corpora; in large ones, use the model as a reranker.

    Example:
        >>> MultiVector(model="lightonai/mLateOn", max_length=300).changed()
        {'max_length': 300}
    """

    argument: ClassVar[str | None] = "model"
    operational: ClassVar[frozenset[str]] = IndexedRetriever.operational | {"batch_size", "device", "max_gb"}
    nested: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")
    encodes: ClassVar[bool] = True

    model: str = "lightonai/mLateOn"
    """A folder or a hub name of a late-interaction model: of sentence-transformers (MultiVectorEncoder), PyLate or
    Stanford's ColBERT.
    """
    query_prefix: str | None = None
    """Text before each question; "" for none. Default: the marker or prompt that the model's files declare."""
    passage_prefix: str | None = None
    """Text before each note; "" for none. Default: the marker or prompt that the model's files declare."""
    max_length: Annotated[int, Field(ge=3)] | None = None
    """The most tokens of a note that are read, from 3. Default: that of the model's files. The length of questions is
    always the model's own.
    """
    max_gb: PositiveFloat = 16.0
    """The most gigabytes of token vectors that are made. A corpus that needs more is refused before anything is
    encoded.
    """
    batch_size: PositiveInt | None = None
    """The most texts of full length encoded at a time. Default: a fixed number of tokens."""
    device: str | None = None
    """A torch device. Default: a GPU if there is one."""

    _found: tuple[Path, str] | None = PrivateAttr(default=None)
    _encoder: MultiVectorEncoder | None = PrivateAttr(default=None)

    def identity(self) -> dict[str, Any]:
        """Identify the model by its content, not its path."""
        return super().identity() | {"model": self._find_model()[1]}

    def index_identity(self) -> dict[str, Any]:
        """Return the settings that the notes' vectors depend on: all but those of queries."""
        require("neural", "torch", "sentence_transformers", what="retriever multivector")
        return {name: value for name, value in self.identity().items() if name not in _OF_QUERIES}

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the `k` notes with the highest scores for each question; one without any token is never found."""
        if not len(notes) or not questions:
            return [[] for _ in questions]
        index: TokenIndex = self.open_index(notes)
        ranked: dict[int, tuple[list[Hit], int]] = {}
        for task, rows in rows_by_task(questions).items():  # a hypothetical passage is encoded as notes are (HyDE)
            queries = list(dict.fromkeys(questions[row].query for row in rows))
            vectors = self._encode(queries, task, [f"query {query[:50]!r}" for query in queries])
            ranked_queries = {
                query: rank_hits(scores[index.texts], notes.note_idxs, k, query, above=-math.inf)
                for query, scores in zip(queries, all_scores(self._model(), vectors, index), strict=True)
            }
            ranked |= {row: ranked_queries[questions[row].query] for row in rows}
        if n_tied := sum(n_left_out > 0 for _, n_left_out in ranked.values()):
            logger.info(
                "%d of %d rankings had ties at rank %d; a hash decided which notes stayed", n_tied, len(questions), k
            )
        return [ranked[row][0] for row in range(len(questions))]

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """Write the token vectors of the notes, and the number of the text of each."""
        logger.info("indexing %s (multivector, %s%s)", counted(len(notes), "note"), self.model, self.about_build(notes))
        write_token_vectors(notes, folder, self._encode_notes)

    def read_files(self, folder: Path) -> TokenIndex:
        """Open the token vectors, memory-mapped."""
        return open_token_vectors(folder)

    def check(self) -> str:
        """Say which model is read, and the shape of its vectors; raise a QilinError if it can't be used here."""
        folder = self._find_model()[0]
        shape = token_shape(folder, self.max_length)
        place = "" if str(folder) == self.model else f", in {folder}"
        return (
            f"model {self.model}{place}: {shape.dimension} dimensions a token, at most {shape.n_tokens} tokens a note"
        )

    def about_build(self, notes: NoteStore) -> str:
        """Say how many gigabytes of token vectors the notes need, estimated without loading the model.

        Raises:
            UsageError: if that is more than `max_gb`.
        """
        shape = token_shape(self._find_model()[0], self.max_length)
        some = notes.get(notes.note_idxs[:: max(1, len(notes) // _SAMPLED)].tolist())
        n_tokens = sum(min(estimate_tokens(note.text) + _MARKS, shape.n_tokens) for note in some) / len(some)
        gigabytes = len(notes) * n_tokens * shape.dimension * 4 / 1e9
        size = f"{gigabytes:,.1f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:,.1f} MB"
        if gigabytes > self.max_gb:
            raise UsageError(
                f"{len(notes):,} notes need about {size} of token vectors, more than max_gb {self.max_gb:g}; let the "
                "model rerank what another retriever finds (--rerank), or raise retriever.max_gb"
            )
        return f", about {size} of token vectors"

    def _find_model(self) -> tuple[Path, str]:
        """Return the folder of the model and the hash of its content; fetch it if it is not on this machine."""
        if self._found is None:
            folder = fetch_model(self.model)
            check_is_late_interaction(folder, self.model)
            self._found = folder, model_sha256(folder)
        return self._found

    def _encode(self, texts: Sequence[str], task: Task, names: Sequence[str]) -> list[torch.Tensor]:
        """Return the token vectors of each text, on the device of the model."""
        found: dict[int, torch.Tensor] = {}
        encoded = encode_tokens(
            self._model(),
            texts,
            task,
            prefix=self.query_prefix if task == "query" else self.passage_prefix,
            batch_size=self.batch_size,
            named=(self.model, names),
        )
        with stage("encoding texts", len(texts)) as advance:
            for rows, vectors in encoded:
                found.update(zip(rows.tolist(), vectors, strict=True))
                advance(len(rows))
        return [found[row] for row in range(len(texts))]

    def _encode_notes(self, texts: Sequence[str], names: Sequence[str]) -> list[TokenVectors]:
        return [vectors.cpu().numpy() for vectors in self._encode(texts, "document", names)]

    def _model(self) -> MultiVectorEncoder:
        if self._encoder is None:
            self._encoder = load_multi_vector(self._find_model()[0], self.model, self.device, self.max_length)
        return self._encoder
