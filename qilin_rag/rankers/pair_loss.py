"""Train a cross-encoder with sentence-transformers on pairs that are tokens already: loss and trainer.

Their own losses tokenize, so that the model waits for each batch.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from torch import Tensor

from qilin_rag.models.hf_compat import SentenceTrainerMixin


class PairLoss(torch.nn.Module):  # type: ignore[misc]
    """Binary cross-entropy of the logits of pairs."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any], labels: Tensor, prompt: None = None, task: None = None) -> Tensor:
        """Return the mean over the pairs, whose labels are (n_pairs,)."""
        logits = self.model(features)["scores"].view(-1)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)


class PairTrainer(SentenceTrainerMixin, CrossEncoderTrainer):  # type: ignore[misc]
    """The trainer of the cross-encoder."""

    def collect_features(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """Return the tokens of a batch, and its labels."""
        labels = inputs.pop("label")
        return inputs, labels
