"""Train a bi-encoder, one encoder for query and note, to tell a click from all other notes of a batch."""

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

_CHUNK_TEXTS = 4096  # candidates to look up and encode at a time, in order of length
_CHUNK_ROWS = 65536  # candidates whose scores are computed in double precision at a time


class BiEncoder(TrainedRanker):
    """A bi-encoder: dot product or cosine of the vectors of query and note, by one encoder for both.

    An example is a click. Of all distinct notes in the batch, on any device, the clicked one should score highest
    (cross-entropy of `scale` times the similarity). The other notes are results of the request that were not clicked,
    and the notes of the other examples. A note that any request of the same query clicked is never a negative. The
    retriever can use the folder that `train` writes.

    Example:
        >>> BiEncoder(similarity="cosine", scale=20).changed()
        {'similarity': 'cosine', 'scale': 20.0}
    """

    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (*TrainedRanker.packages, "sentence-transformers")
    pretrained: ClassVar[frozenset[str]] = frozenset({"model"})
    reads_text_only: ClassVar[bool] = True

    model: str = "bert-base-chinese"
    """A folder or a hub name of a sentence-transformers or transformers model to start from."""
    query_prefix: str | None = None
    """Text before each query; "" for none. Default: declared in the model's files, or documented for its family."""
    passage_prefix: str | None = None
    """Text before each note; "" for none. Default: declared in the model's files, or documented for its family."""
    pooling: Pooling | None = None
    """How token vectors become one: cls, mean, max or lasttoken. Default: that of the model's files, or of its family.
    """
    max_length: Annotated[int, Field(ge=3)] = 256
    """The most tokens of a text that are read."""
    similarity: Literal["dot", "cosine"] = "dot"
    """How the vectors of query and note are compared: dot (product) or cosine."""
    scale: PositiveFloat = 1.0
    """The factor of the similarity in the loss; cosines, which are at most 1, need about 20."""
    n_negatives: NonNegativeInt = 6
    """The number of results of the request, not clicked, beside each click."""

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        """Load the pretrained encoder, and make an example for each click."""
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
        """Score by encoding each distinct text once: notes with the same text have the same score."""
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
        """Encode the texts behind the keys, which are looked up chunk by chunk; return (n_keys, dimension)."""
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
        """Save the encoder as sentence-transformers does, with prefixes and similarity."""
        with quiet_loading():
            fitted.save_pretrained(str(folder), create_model_card=False)

    def load(self, folder: Path) -> Any:
        """Load the encoder, whose files give its pooling and length."""
        return load_encoder(folder, str(folder), self.device, None, None).eval()


def trainable(encoder: SentenceTransformer) -> list[Any]:
    """Return all parameters that affect the vectors: not those of BERT's own pooler."""
    for name, parameter in encoder.named_parameters():
        if ".pooler." in name:
            parameter.requires_grad_(False)
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]
