"""Define the network of DCN-V2 (Wang et al. 2021): cross layers beside a deep part, one logit for each candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from qilin_rag.rankers.features import N_SOURCES, NOTE_IDS, USER_IDS
from qilin_rag.rankers.propensity import N_POSITIONS, N_POSITIONS_IN_COLUMNS

_MOST = 10.0  # the most standard deviations of a number from its mean


class Shape(NamedTuple):
    """The shape of a network; 0 stands for an input that does not exist."""

    tables: Mapping[str, tuple[int, int]]
    """Buckets and width of each id's embeddings."""
    n_note_numbers: int
    n_user_numbers: int
    text_width: int
    has_source: bool
    has_history: bool
    n_cross_layers: int
    rank: int | None
    hidden: Sequence[int]
    dropout: float
    has_tower: bool
    page_columns: int = 1

    @property
    def n_positions(self) -> int:
        """Return the number of buckets of the position, of each kind of request."""
        return N_POSITIONS if self.page_columns == 1 else N_POSITIONS_IN_COLUMNS

    @property
    def id_names(self) -> tuple[str, ...]:
        """Return the ids that have embeddings."""
        return (*NOTE_IDS, *(USER_IDS if self.n_user_numbers else ()))

    @property
    def width(self) -> int:
        """Return the number of inputs."""
        ids = sum(self.tables[name][1] for name in self.id_names)
        history = self.tables["note_idx"][1] if self.has_history else 0
        source = N_SOURCES if self.has_source else 0
        return 1 + source + history + ids + self.n_note_numbers + self.n_user_numbers + 2 * self.text_width


class CrossLayer(nn.Module):  # type: ignore[misc]
    """A cross layer: x_{l+1} = x0 * (W x_l + b) + x_l; with a low rank W = U V^T."""

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.v = nn.Identity() if rank is None else nn.Linear(width, rank, bias=False)
        self.w = nn.Linear(width if rank is None else rank, width)

    def forward(self, x0: Any, x: Any) -> Any:
        """Return the input of the next layer."""
        return x0 * self.w(self.v(x)) + x


class Standardized(nn.Module):  # type: ignore[misc]
    """Numbers minus their mean, divided by their standard deviation, both from train; a missing one is the mean."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("std", torch.ones(n))

    def forward(self, numbers: Any) -> Any:
        """Standardize numbers of shape (n_candidates, n)."""
        return ((numbers - self.mean) / self.std).nan_to_num(0.0).clamp(-_MOST, _MOST)


class CrossNetwork(nn.Module):  # type: ignore[misc]
    """The network: embeddings of ids, numbers and vectors of texts; cross layers and deep part; a linear head.

    It has no batch norm: a score depends on nothing else in the batch. Position has its own tower (a number for each
    bucket, separate for searches and recommendations), which adds to the logit in training and is left out of `logits`.
    Notes that were not in train (not `knows_note`, by bucket) share the embedding of a missing id: an embedding of
    their own would be noise, and a shared bucket would hold that of another note.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tables = nn.ModuleDict({name: nn.Embedding(*shape.tables[name]) for name in shape.id_names})
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=0.01)  # an id that was never seen stays near 0, which says nothing
        self.register_buffer("knows_note", torch.ones(shape.tables["note_idx"][0], dtype=torch.bool))
        self.note_scale = Standardized(shape.n_note_numbers)
        self.user_scale = Standardized(shape.n_user_numbers)
        self.cross = nn.ModuleList(CrossLayer(shape.width, shape.rank) for _ in range(shape.n_cross_layers))
        sizes = [shape.width, *shape.hidden]
        layers: list[Any] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(shape.dropout)]
        self.deep = nn.Sequential(*layers)
        self.head = nn.Linear(shape.width + sizes[-1], 1)
        self.tower = nn.Embedding(2 * shape.n_positions, 1) if shape.has_tower else None
        if self.tower is not None:
            nn.init.zeros_(self.tower.weight)

    def forward(self, labels: Any, position: Any = None, **features: Any) -> dict[str, Any]:
        """Return the loss of these candidates; `position` are buckets, `labels` clicks, weighted or not."""
        logits = self.logits(features).float()
        if self.tower is not None:
            logits = logits + self.tower(position + self.shape.n_positions * features["is_search"].long()).squeeze(-1)
        return {"loss": functional.binary_cross_entropy_with_logits(logits, labels)}

    def logits(self, features: Mapping[str, Any]) -> Any:
        """Return a score for each candidate, (n_candidates,), whatever its position."""
        x0 = self.inputs(features)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        return self.head(torch.cat([x, self.deep(x0)], dim=1)).squeeze(-1)

    def inputs(self, features: Mapping[str, Any]) -> Any:
        """Return all inputs side by side, (n_candidates, width)."""
        parts = [features["is_search"][:, None], self.note_scale(features["note_numbers"])]
        note_ids = dict(zip(NOTE_IDS, features["note_ids"].T, strict=True))
        note_ids["note_idx"] = self._known(note_ids["note_idx"])
        parts += [self.tables[name](ids) for name, ids in note_ids.items()]
        if self.shape.n_user_numbers:
            parts.append(self.user_scale(features["user_numbers"]))
            parts += [self.tables[name](ids) for name, ids in zip(USER_IDS, features["user_ids"].T, strict=True)]
        if self.shape.has_source:
            parts.append(functional.one_hot(features["source"].long(), N_SOURCES).float())
        if self.shape.has_history:
            parts.append(self.history(features["recent"]))
        if self.shape.text_width:
            scale = math.sqrt(self.shape.text_width)  # vectors of length 1 have small components
            parts += [features[name].float() * scale for name in ("query_vector", "note_vector")]
        return torch.cat(parts, dim=1)

    def _known(self, buckets: Any) -> Any:
        """Return the buckets of notes, 0 for those that were not in train."""
        return buckets * self.knows_note[buckets.long()]

    def history(self, recent: Any) -> Any:
        """Return the mean embedding of the recently clicked notes; 0 if there are none.

        Padding and notes that were not in train are ignored.
        """
        recent = self._known(recent)
        is_there = (recent != 0).float().unsqueeze(-1)
        total = (self.tables["note_idx"](recent) * is_there).sum(dim=1)
        return total / is_there.sum(dim=1).clamp(min=1)
