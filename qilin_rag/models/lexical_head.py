"""Read the sparse head of BGE-M3 (`sparse_linear.pt`): a weight for each token of a text, from its last hidden state.

The formula is FlagEmbedding's (Chen et al. 2024, M3-Embedding): the weight of a token is relu(W h + b), a token that
occurs several times has the largest of its weights, and special tokens have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qilin_rag.core.errors import UsageError

_UNWEIGHTED = ("cls_token_id", "eos_token_id", "pad_token_id", "unk_token_id")  # as FlagEmbedding leaves them out


class LexicalHead(nn.Module):  # type: ignore[misc]
    """A linear layer over hidden states, after the transformer of a `SparseEncoder`."""

    def __init__(self, linear: nn.Linear, n_tokens: int, tokenizer: Any) -> None:
        """Set the layer, the size of the vocabulary, and the tokens without weight."""
        super().__init__()
        self.linear = linear
        self.n_tokens = n_tokens
        special = {getattr(tokenizer, name) for name in _UNWEIGHTED}
        self.unweighted = sorted(number for number in special if number is not None)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add a weight for each token of the vocabulary, shape (n_texts, n_tokens)."""
        ids = features["input_ids"]
        weights = torch.relu(self.linear(features["token_embeddings"])).squeeze(-1)
        vectors = torch.zeros(len(ids), self.n_tokens, dtype=weights.dtype, device=weights.device)
        vectors.scatter_reduce_(1, ids, weights, "amax")
        vectors[:, self.unweighted] = 0
        features["sentence_embedding"] = vectors
        return features

    def get_embedding_dimension(self) -> int:
        """Return the size of the vocabulary."""
        return self.n_tokens


def read_linear(path: Path, n_hidden: int, name: str) -> nn.Linear:
    """Read a layer from `n_hidden` numbers to one; nothing of the file is executed.

    Args:
        path: A file of torch (`.pt`) or safetensors.
        n_hidden: The width of the model's hidden states.
        name: The name of the model, for errors.

    Raises:
        UsageError: if the file holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        linear = nn.Linear(n_hidden, 1)
        linear.load_state_dict({key: value.float() for key, value in state.items()})
    except Exception as error:  # a damaged file makes torch, pickle and zipfile raise anything
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"model {name!r}: {path.name} does not hold the weight (1, {n_hidden}) and bias (1,) of a sparse head "
            f"({type(error).__name__}: {reason}); fetch the model again"
        ) from error
    return linear
