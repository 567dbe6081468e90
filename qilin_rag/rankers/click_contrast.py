"""Train a bi-encoder on clicks with sentence-transformers: batches, loss, trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad
from torch import Tensor, distributed

from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import MISSING
from qilin_rag.data.requests import Requests
from qilin_rag.models.hf_compat import SentenceTrainerMixin
from qilin_rag.models.sentence_encoder import Task, readable
from qilin_rag.models.tokens import batch_tokens
from qilin_rag.rankers.examples import ClickedNotes, Contrasts
from qilin_rag.rankers.passages import note_texts


def example_rows(n: int) -> Dataset:
    """Return the numbers of examples: all that the trainer shuffles and distributes."""
    return Dataset.from_dict({"example": np.arange(n)})


class ClickBatches(SentenceTransformerDataCollator):  # type: ignore[misc]
    """Looks up and tokenizes a batch: a query for each example, and each distinct note of the batch once.

    The labels are ids of notes: `passages` (n_notes,), `positive` (n_examples,), and `clicked` (n_examples, n), which
    holds all that any request clicked under each query, padded with -1.
    """

    def __init__(
        self, encoder: SentenceTransformer, examples: Contrasts, requests: Requests, catalogue: Catalogue
    ) -> None:
        super().__init__(preprocess_fn=encoder.preprocess)
        self._encoder, self._examples, self._requests, self._catalogue = encoder, examples, requests, catalogue
        self._clicked = ClickedNotes.of(requests)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the tokens of the rows of `example_rows`, with the labels."""
        rows = np.array([feature["example"] for feature in features])
        examples, requests = self._examples, self._requests
        request = examples.request[rows]
        notes = np.unique(np.append(examples.positive[rows], examples.negatives[rows]))
        notes = notes[notes != MISSING]
        labels = {
            "passages": notes,
            "positive": examples.positive[rows],
            "clicked": self._clicked.of_requests(request),
        }
        return {
            **self._tokens("query", [requests.queries[row] for row in request]),
            **self._tokens("document", note_texts(self._catalogue, notes)),
            "label": {name: torch.from_numpy(ids) for name, ids in labels.items()},
        }

    def _tokens(self, kind: Task, texts: Sequence[str]) -> dict[str, Any]:
        """Tokenize queries or documents, and say which they are: a model may have a route for each."""
        encoder = self._encoder
        read = [readable(encoder, text) for text in texts]
        tokens = batch_tokens(encoder, read, prompt=encoder.prompts[kind], task=kind)
        return {f"{kind}_{name}": values for name, values in {**tokens, "task": kind}.items()}


class ClickContrast(torch.nn.Module):  # type: ignore[misc]
    """Cross-entropy of each example's clicked note among all distinct notes of the batch, on any device.

    Other notes clicked under the same query are left out. `most` is the largest number of notes in the batch of one
    device: each device sends as many, so that they can be gathered.
    """

    def __init__(self, model: SentenceTransformer, similarity: str, scale: float, most: int) -> None:
        super().__init__()
        self.model = model
        self._similarity, self._scale, self._most = similarity, scale, most

    def forward(self, features: Iterable[dict[str, Tensor]], labels: dict[str, Tensor]) -> Tensor:
        """Return the mean over this device's examples; `features` are of queries and notes."""
        queries, vectors = (self.model(of)["sentence_embedding"].float() for of in features)
        vectors, ids = self._gathered(vectors, labels["passages"])
        if self._similarity == "cosine":
            queries, vectors = (torch.nn.functional.normalize(of, dim=-1) for of in (queries, vectors))
        with torch.autocast(queries.device.type, enabled=False):  # a bf16 of 100 has no fraction
            logits = self._scale * queries @ vectors.T
        target = torch.searchsorted(ids, labels["positive"])
        logits = logits.masked_fill(_left_out(labels["clicked"], ids, target), -torch.inf)
        return torch.nn.functional.cross_entropy(logits, target)

    def _gathered(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the notes of all devices without duplicates, by id.

        Gradients return to the device that a note's vector comes from. The loss of each device is a mean over its own
        examples, and gradients are averaged over devices, so that together they are those of one batch.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return vectors, ids
        n_left = self._most - len(ids)
        vectors = all_gather_with_grad(torch.nn.functional.pad(vectors, (0, 0, 0, n_left)))
        ids = all_gather(torch.nn.functional.pad(ids, (0, n_left), value=MISSING))
        distinct, which = ids.unique(return_inverse=True)
        places = torch.arange(len(ids), device=ids.device)
        first = torch.full_like(distinct, len(ids)).scatter_reduce(0, which, places, "amin")
        is_note = distinct != MISSING
        return vectors[first[is_note]], distinct[is_note]


def _left_out(clicked: Tensor, ids: Tensor, target: Tensor) -> Tensor:
    """Return which of the notes `ids` each example is not compared with: clicked, but not its target."""
    at = torch.searchsorted(ids, clicked).clamp(max=len(ids) - 1)
    example, nth = (ids[at] == clicked).nonzero(as_tuple=True)
    out = torch.zeros(len(clicked), len(ids), dtype=torch.bool, device=ids.device)
    out[example, at[example, nth]] = True
    return out.scatter(1, target[:, None], False)


class ClickTrainer(SentenceTrainerMixin, SentenceTransformerTrainer):  # type: ignore[misc]
    """The trainer of the bi-encoder."""
