"""A bi-encoder: query and note as vectors of one encoder, trained to tell a click from all other notes of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveFloat

from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import Advance, stage
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.models.families import Pooling
from qilin_rag.models.prefixes import model_prefixes
from qilin_rag.models.pretrained import fetch_model, quiet_loading
from qilin_rag.models.sentence_encoder import Task, Vectors, dot, encode, load_encoder
from qilin_rag.rankers.passages import distinct_notes, note_texts
from qilin_rag.rankers.trained import Recipe, TrainedRanker

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CHUNK_TEXTS = 4096  # looked up and encoded at a time, in order of length
_CHUNK_ROWS = 65536  # of candidates, in double precision


class BiEncoder(TrainedRanker):
    """Dot product (or cosine) of the vectors of query and note, by one encoder for both.

    `model`, the prefixes, `pooling` and `max_length` are as the retriever's. An example is a click. Of all distinct
    notes in the batch, on whichever device, the clicked one should score highest (cross-entropy of `scale` times the
    similarity): against `n_negatives` results of its request that were not clicked, and against the notes of the other
    examples. A note that any request of the same query clicked is never a negative. The folder that `train` writes
    serves the retriever.
    """

    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (*TrainedRanker.packages, "sentence-transformers")
    pretrained: ClassVar[frozenset[str]] = frozenset({"model"})
    reads_text_only: ClassVar[bool] = True

    model: str = "bert-base-chinese"
    query_prefix: str | None = None
    passage_prefix: str | None = None
    pooling: Pooling | None = None
    max_length: Annotated[int, Field(ge=3)] = 256
    similarity: Literal["dot", "cosine"] = "dot"
    scale: PositiveFloat = 1.0
    """Cosines, which are 1 at most, need about 20."""
    n_negatives: NonNegativeInt = 6

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        """The pretrained encoder, and an example for each click."""
        from sentence_transformers import SentenceTransformerTrainingArguments

        from qilin_rag.rankers.click_contrast import ClickBatches, ClickContrast, ClickTrainer, example_rows
        from qilin_rag.rankers.examples import contrasts

        folder = fetch_model(self.model)
        encoder = load_encoder(folder, self.model, "cpu", self.pooling, self.max_length)  # the trainer moves it
        own = model_prefixes(folder, self.model)
        query, passage = (
            mine if given is None else given
            for given, mine in zip((self.query_prefix, self.passage_prefix), own, strict=True)
        )
        encoder.prompts = {"query": query, "document": passage}
        encoder.similarity_fn_name = self.similarity
        encoder.model_card_data.local_files_only = True
        examples = contrasts(train, self.n_negatives, self.seed)
        n_clicks, n_processes = len(examples.request), int(os.environ.get("WORLD_SIZE", "1"))
        if n_clicks < self.batch_size * n_processes and n_processes > 1:
            raise UsageError(f"{n_clicks} clicks are less than a batch of {self.batch_size} on {n_processes} processes")
        most = self.batch_size * (1 + self.n_negatives)
        return Recipe(
            ClickTrainer,
            SentenceTransformerTrainingArguments,
            encoder,
            encoder,
            example_rows(n_clicks),
            [{"params": trainable(encoder)}],
            given={
                "loss": ClickContrast(encoder, self.similarity, self.scale, most),
                "data_collator": ClickBatches(encoder, examples, train, catalogue),
            },
        )

    def score_with(self, fitted: Any, requests: Requests, catalogue: Catalogue) -> Floats:
        """Each distinct query and text of a note is encoded once: notes of one text have one score."""
        texts, query = np.unique(np.array(requests.queries, dtype=object), return_inverse=True)
        notes, note = distinct_notes(catalogue, requests.note_idx)
        with stage("encoding", len(texts) + len(notes)) as advance:
            queries = self._vectors(fitted, "query", texts, lambda some: some.tolist(), advance)
            passages = self._vectors(fitted, "document", notes, lambda some: note_texts(catalogue, some), advance)
        scores = np.empty(requests.n_candidates, np.float32)
        for start in range(0, len(scores), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            scores[rows] = dot(passages[note[rows]], queries[query[requests.request[rows]]])
        return scores

    def _vectors(
        self,
        fitted: SentenceTransformer,
        kind: Task,
        keys: npt.NDArray[Any],
        texts_of: Callable[[npt.NDArray[Any]], list[str]],
        advance: Advance,
    ) -> Vectors:
        """Of the texts behind the keys, which are looked up and encoded chunk by chunk; (n_keys, dimension)."""
        parts = []
        for start in range(0, len(keys), _CHUNK_TEXTS):
            some = keys[start : start + _CHUNK_TEXTS]
            vectors = encode(
                fitted,
                texts_of(some),
                fitted.prompts[kind],
                task=kind,
                normalize=self.similarity == "cosine",
                batch_size=self.score_batch_size,
                named=(self.model, [f"{kind} {key}" for key in some]),
            )
            parts.append(vectors)
            advance(len(some))
        return np.concatenate(parts)

    def save(self, fitted: Any, folder: Path) -> None:
        """As sentence-transformers does, with prefixes and similarity."""
        with quiet_loading():
            fitted.save_pretrained(str(folder), create_model_card=False)

    def load(self, folder: Path) -> Any:
        """What was saved says its own pooling and length."""
        return load_encoder(folder, str(folder), self.device, None, None).eval()


def trainable(encoder: SentenceTransformer) -> list[Any]:
    """All parameters that have a part in the vectors: BERT's own pooler has none."""
    for name, parameter in encoder.named_parameters():
        if ".pooler." in name:
            parameter.requires_grad_(False)
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]
