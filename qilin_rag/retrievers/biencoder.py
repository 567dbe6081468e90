"""Dense retrieval: query and notes as vectors of one sentence-transformers model, the nearest found by faiss."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt, PrivateAttr

from qilin_rag.data import NoteStore
from qilin_rag.errors import UsageError
from qilin_rag.extras import require
from qilin_rag.pretrained import check_all_loaded, fetch_model, model_sha256, quiet_loading
from qilin_rag.retrievers.base import rank_hits
from qilin_rag.retrievers.kept_index import IndexedRetriever
from qilin_rag.retrievers.prefixes import Prefixes, model_prefixes
from qilin_rag.types import Hit, Note, Question

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Pooling = Literal["mean", "cls", "max", "lasttoken"]
Vectors = npt.NDArray[np.float32]

_VECTORS = "vectors.npy"
_CHUNK_NOTES = 4096  # encoded at a time, in order of length
_CHUNK_QUERIES = 1024  # searched at a time
_BLOCK_ROWS = 65536  # of vectors, in double precision
_MARGIN = 100  # notes asked of faiss beyond k, so that ties at the cut are seen
_MAX_CHARS_PER_TOKEN = 64  # what lies beyond is cut before tokenizing, which takes seconds for megabytes
_LOG_EVERY_S = 30


class BiEncoder(IndexedRetriever):
    """Cosine similarity of sentence vectors (or dot product), every note compared with every query.

    `model` is a folder or hub name of a sentence-transformers or transformers model. A prefix that is not given is
    the model's own: declared in its files, or documented for its family (bge-*-zh, e5); "" is none. `pooling` and
    `max_length` (in tokens) that are not given are the model's own; `normalize: false` compares by dot product.
    """

    operational: ClassVar[frozenset[str]] = IndexedRetriever.operational | {"batch_size", "device"}
    nested: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")

    model: str = "BAAI/bge-base-zh-v1.5"
    query_prefix: str | None = None
    passage_prefix: str | None = None
    pooling: Pooling | None = None
    max_length: Annotated[int, Field(ge=3)] | None = None
    normalize: bool = True
    batch_size: PositiveInt = 32
    device: str | None = None

    _found: tuple[Path, str] | None = PrivateAttr(default=None)
    _encoder: SentenceTransformer | None = PrivateAttr(default=None)

    def identity(self) -> dict[str, Any]:
        """What the model contains counts, not where it lies; prefixes and pooling as they are used."""
        folder, sha256 = self._find_model()
        prefixes = self._prefixes()
        return super().identity() | {
            "model": sha256,
            "query_prefix": prefixes.query,
            "passage_prefix": prefixes.passage,
            "pooling": self.pooling or _default_pooling(folder),
        }

    def index_identity(self) -> dict[str, Any]:
        """All but the query's prefix: the notes' vectors don't depend on it."""
        require("neural", "torch", "sentence_transformers", "faiss", what="retriever biencoder")
        return {name: value for name, value in self.identity().items() if name != "query_prefix"}

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """The `k` notes nearest to each question, whatever their score."""
        if not len(notes) or not questions:
            return [[] for _ in questions]
        vectors: Vectors = self.open_index(notes)
        logger.info("encoding %d queries, prefix %r", len(questions), self._prefixes().query)
        queries = self.encode_queries([question.query for question in questions])
        rankings, n_tied = _nearest(queries, vectors, notes.note_idxs, k)
        if n_tied:
            logger.info("%d of %d rankings had ties at rank %d; lower note_idx stayed", n_tied, len(questions), k)
        return rankings

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """Vectors of shape (n_queries, dimension); a UsageError names the first that is not finite."""
        texts = [self._clip(query or " ") for query in queries]  # "" may be no token at all
        return self._encode(texts, self._prefixes().query, [f"query {query!r:.40}" for query in queries])

    def encode_notes(self, notes: Sequence[Note]) -> Vectors:
        """Vectors of shape (n_notes, dimension); a UsageError names the first that is not finite."""
        texts = [self._clip(note.text) for note in notes]
        return self._encode(texts, self._prefixes().passage, [f"note {note.note_idx}" for note in notes])

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """The notes' vectors in the order of the store, shape (n_notes, dimension), float32; one chunk in memory."""
        prefix = self._prefixes().passage
        logger.info("indexing %d notes (biencoder, %s, passage prefix %r)", len(notes), self.model, prefix)
        n_done, logged = 0, time.monotonic()
        stream = iter(notes)
        with (folder / _VECTORS).open("wb") as file:
            while chunk := list(itertools.islice(stream, _CHUNK_NOTES)):
                vectors = self.encode_notes(chunk)
                if not n_done:
                    shape = (len(notes), vectors.shape[1])
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
                n_done += len(chunk)
                if time.monotonic() - logged > _LOG_EVERY_S:
                    logged = time.monotonic()
                    logger.info("indexed %d of %d notes", n_done, len(notes))

    def read_files(self, folder: Path) -> Vectors:
        """The notes' vectors, memory-mapped."""
        vectors: Vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        return vectors

    def _find_model(self) -> tuple[Path, str]:
        """The model's folder and the hash of what it contains; fetched where it is not here."""
        if self._found is None:
            folder = fetch_model(self.model)
            self._found = folder, model_sha256(folder)
        return self._found

    def _prefixes(self) -> Prefixes:
        own = model_prefixes(self._find_model()[0], self.model)
        given = (self.query_prefix, self.passage_prefix)
        return Prefixes(*(mine if text is None else text for text, mine in zip(given, own, strict=True)))

    def _encode(self, texts: list[str], prefix: str, names: list[str]) -> Vectors:
        """Vectors of shape (n_texts, dimension); a UsageError names the first text whose vector is not finite."""
        encoder = self._model()
        with quiet_loading():
            vectors: Vectors = encoder.encode(
                texts,
                prompt=prefix,
                batch_size=self.batch_size,
                normalize_embeddings=self.normalize,
                show_progress_bar=False,
            )
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise UsageError(
                f"model {self.model!r} makes vectors that are not finite ({names[broken[0]]}"
                + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
                + "); its weights are damaged, or it is no model for text"
            )
        return vectors

    def _clip(self, text: str) -> str:
        """The text without what lies far beyond what the model reads."""
        return text[: int(self._model().max_seq_length or 512) * _MAX_CHARS_PER_TOKEN]

    def _model(self) -> SentenceTransformer:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder

    def _load(self) -> SentenceTransformer:
        """The model in full precision, with our pooling and length."""
        from sentence_transformers import SentenceTransformer

        folder, _ = self._find_model()
        try:
            with quiet_loading() as messages:
                encoder = SentenceTransformer(str(folder), device=self.device, local_files_only=True).float()
        except Exception as error:  # whatever unfit files make torch, transformers or their tokenizers raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UsageError(f"model {self.model!r} can't be loaded: {reason}") from error
        check_all_loaded(self.model, messages)
        if pooling := self.pooling or _default_pooling(folder):
            _set_pooling(encoder, pooling)
        if self.max_length is not None:
            limit = getattr(encoder[0].auto_model.config, "max_position_embeddings", None)
            if limit and limit < self.max_length:
                raise UsageError(f"max_length {self.max_length}: model {self.model!r} reads {limit} tokens at most")
            encoder.max_seq_length = self.max_length
        return encoder


def _default_pooling(folder: Path) -> Pooling | None:
    """None where the model's own files say how token vectors are pooled."""
    return None if (folder / "modules.json").is_file() else "mean"


def _set_pooling(encoder: SentenceTransformer, pooling: Pooling) -> None:
    for position, module in enumerate(encoder):
        if type(module).__name__ == "Pooling":
            dimension = encoder[0].auto_model.config.hidden_size
            encoder[position] = type(module)(dimension, pooling, include_prompt=module.include_prompt)
            return
    raise UsageError(f"pooling {pooling}: this model pools in its own way; leave the setting out")


def _nearest(
    queries: Vectors, vectors: Vectors, note_idxs: npt.NDArray[np.int64], k: int
) -> tuple[list[list[Hit]], int]:
    """`rank_hits` over the dot products of each query with all vectors; also how many rankings had ties at the cut.

    faiss finds candidates; their scores are computed again, so that equal vectors have equal scores wherever they
    stand. Where faiss may have cut among ties, the query is compared with all vectors: faiss is off by at most
    dimension * 2^-24 * |query| * |vector| (Higham 2002, section 3.1), here taken twice.
    """
    import faiss

    n_candidates = min(k + _MARGIN, len(vectors))
    blocks = [vectors[start : start + _BLOCK_ROWS] for start in range(0, len(vectors), _BLOCK_ROWS)]
    longest = max(float(np.linalg.norm(block, axis=1).max()) for block in blocks)
    error = 2 * vectors.shape[1] * 2.0**-24 * longest
    rankings = []
    n_tied = 0
    for start in range(0, len(queries), _CHUNK_QUERIES):
        chunk = queries[start : start + _CHUNK_QUERIES]
        found_scores, found = faiss.knn(chunk, vectors, n_candidates, metric=faiss.METRIC_INNER_PRODUCT)
        for query, rows, least in zip(chunk, found, found_scores.min(axis=1), strict=True):
            scores, ids = _dot(vectors[rows], query), note_idxs[rows]
            reach = least + error * float(np.linalg.norm(query))  # of the notes that faiss left out
            if n_candidates < len(vectors) and np.partition(scores, -k)[-k] <= reach:
                scores, ids = np.concatenate([_dot(block, query) for block in blocks]), note_idxs
            hits, left_out = rank_hits(scores, ids, k, above=-math.inf)
            rankings.append(hits)
            n_tied += left_out > 0
    return rankings, n_tied


def _dot(vectors: Vectors, query: Vectors) -> Vectors:
    """Dot products summed row by row in double precision: equal rows give equal results."""
    products: Vectors = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    return products
