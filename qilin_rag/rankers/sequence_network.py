"""Define the network of SASRec (Kang and McAuley 2018): self-attention over a user's clicks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from qilin_rag.core.arrays import positions_in
from qilin_rag.data.clicks import ClickLog, Histories
from qilin_rag.data.exposures import Ints
from qilin_rag.data.requests import Requests

N_KINDS = 3
"""Kinds of clicks: 0 in a recommendation, 1 in a search, 2 only recorded with the request."""
_RECORDED = 2
_UNKNOWN = 0  # the row of padding, and of notes that were not in train
_STD = 0.02


class SequenceShape(NamedTuple):
    """The shape of a network."""

    n_notes: int
    """The number of notes that have an embedding."""
    length: int
    """The most clicks of a history."""
    width: int
    n_blocks: int
    n_heads: int
    dropout: float


class SequenceNetwork(nn.Module):  # type: ignore[misc]
    """The network: a block is self-attention and a feed-forward part of two layers, each x + dropout(f(norm(x))).

    The input is a start vector (of a search or of a recommendation) and the clicks, oldest first. The vector of a click
    is the sum of the embeddings of its note, of its age (0 for the newest) and of its kind. Each element attends only
    to itself and to older ones. Padding comes last, so that nothing attends to it; a user without clicks has the
    start vector alone. The output of the last click is compared with the embeddings of candidates by dot product.
    """

    def __init__(self, shape: SequenceShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("note_idx", torch.zeros(shape.n_notes, dtype=torch.int64))
        """The ids of the notes, ascending: note i has row i + 1 of `notes`."""
        self.notes = nn.Embedding(shape.n_notes + 1, shape.width)
        self.ages = nn.Embedding(shape.length, shape.width)
        self.kinds = nn.Embedding(N_KINDS, shape.width)
        self.start = nn.Embedding(2, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        block = nn.TransformerEncoderLayer(
            shape.width, shape.n_heads, shape.width, shape.dropout, norm_first=True, batch_first=True
        )
        self.blocks = nn.TransformerEncoder(
            block, shape.n_blocks, nn.LayerNorm(shape.width), enable_nested_tensor=False
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:  # blocks are copies of one, which would start with the same weights
                nn.init.normal_(parameter, std=_STD)

    def forward(
        self, notes: Any, kinds: Any, is_search: Any, positive: Any, negatives: Any | None = None, n_random: int = 0
    ) -> dict[str, Any]:
        """Return the loss, the mean over examples of binary cross-entropy: a click as 1, each negative as 0.

        Args:
            notes: (b, length), rows of notes, padded with 0 at the end.
            kinds: (b, length)
            is_search: (b,), whether the click to predict was in a search.
            positive: (b,), the row of the clicked note.
            negatives: (b, n), rows of notes that were not clicked; 0 for none. None: drawn here.
            n_random: How many notes to draw for each example if none are given. One that is the click itself or in the
                history does not count.
        """
        if negatives is None:
            negatives = torch.randint(1, self.shape.n_notes + 1, (len(notes), n_random), device=notes.device)
            is_known = (negatives[:, :, None] == notes[:, None, :]).any(dim=2) | (negatives == positive[:, None])
            negatives = negatives.masked_fill(is_known, _UNKNOWN)
        state = self.encode(notes, kinds, is_search).float()
        of_click = (state * self.notes(positive)).sum(dim=1)
        of_others = (state[:, None, :] * self.notes(negatives)).sum(dim=2)
        losses = functional.softplus(-of_click) + (functional.softplus(of_others) * (negatives != _UNKNOWN)).sum(dim=1)
        return {"loss": losses.mean()}

    def encode(self, notes: Any, kinds: Any, is_search: Any) -> Any:
        """Return the vector of what is clicked next, (b, width)."""
        lengths = (notes != _UNKNOWN).sum(dim=1)
        return self.outputs(notes, kinds, is_search)[torch.arange(len(notes), device=notes.device), lengths]

    def outputs(self, notes: Any, kinds: Any, is_search: Any) -> Any:
        """Return the output of the start vector and of each click, (b, 1 + length, width)."""
        length = notes.shape[1]
        lengths = (notes != _UNKNOWN).sum(dim=1, keepdim=True)
        ages = (lengths - 1 - torch.arange(length, device=notes.device)).clamp(min=0)
        clicks = self.notes(notes) * math.sqrt(self.shape.width) + self.ages(ages) + self.kinds(kinds)
        x = self.dropout(torch.cat([self.start(is_search)[:, None, :], clicks], dim=1))
        mask = torch.ones(length + 1, length + 1, dtype=torch.bool, device=notes.device).triu(1)
        return self.blocks(x, mask=mask, is_causal=True)

    def candidate_vectors(self, rows: Any) -> Any:
        """Return the embeddings of notes, (m, width); the mean of all for a note that was not in train."""
        is_unknown = (rows == _UNKNOWN)[:, None]
        return torch.where(is_unknown, self.notes.weight[1:].mean(dim=0), self.notes(rows))

    def rows_of(self, note_idx: Ints) -> Ints:
        """Return the rows of notes, 0 for one that was not in train."""
        return positions_in(self.note_idx.cpu().numpy(), note_idx) + 1


class Sequences(NamedTuple):
    """The histories of some requests as the network takes them."""

    notes: Ints
    """(n, length), rows of notes, padded with 0 at the end."""
    kinds: Ints
    """(n, length)"""
    is_search: Ints
    """(n,)"""

    def batch(self, rows: Ints) -> dict[str, Any]:
        """Return the inputs for these requests."""
        return {name: torch.from_numpy(values[rows]) for name, values in self._asdict().items()}


def sequences(network: SequenceNetwork, requests: Requests, past: Histories, log: ClickLog) -> Sequences:
    """Return the histories of requests; notes that were not in train are left out of them."""
    rows = network.rows_of(past.note_idx)
    kind = np.where(past.click < 0, _RECORDED, log.is_search[past.click] if len(log) else 0)
    known = past.take(rows != _UNKNOWN)
    length = network.shape.length
    notes, kinds = (known.padded(values[rows != _UNKNOWN], length, 0) for values in (rows, kind))
    return Sequences(notes, kinds, requests.is_search.astype(np.int64))


class ClickExamples(Dataset):  # type: ignore[misc]
    """One example for each click of train: the history of its request, the note, and others that were not clicked."""

    def __init__(
        self, histories: Sequences, request: Ints, positive: Ints, negatives: Ints | None, n_random: int
    ) -> None:
        self.histories, self.request, self.positive = histories, request, positive
        self.negatives, self.n_random = negatives, n_random

    def __len__(self) -> int:
        return len(self.request)

    def __getitems__(self, indices: list[int]) -> Mapping[str, Any]:
        """Return the batch of these examples; a loader that finds this method calls no other."""
        at = np.asarray(indices)
        batch = self.histories.batch(self.request[at]) | {"positive": torch.from_numpy(self.positive[at])}
        if self.negatives is None:
            return batch | {"n_random": self.n_random}
        return batch | {"negatives": torch.from_numpy(self.negatives[at])}
