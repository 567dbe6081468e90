"""Hold examples in columns, so that torch's loader gets a whole batch at once without work for each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from qilin_rag.data.exposures import Ints
from qilin_rag.data.requests import Floats
from qilin_rag.rankers.features import Columns


class Examples(Dataset):  # type: ignore[misc]
    """One example for each candidate: features, label, and the bucket of its position if the model asks for it."""

    def __init__(self, columns: Columns, labels: Floats, position: Ints | None) -> None:
        self.columns, self.labels, self.position = columns, labels, position

    def __len__(self) -> int:
        return len(self.columns)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of these examples; a loader that finds this method calls no other."""
        rows = np.asarray(indices)
        batch = self.columns.batch(rows) | {"labels": self.labels[rows]}
        if self.position is not None:
            batch["position"] = self.position[rows]
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def as_one(batch: dict[str, Any]) -> dict[str, Any]:
    """Collate what is a batch already."""
    return batch
