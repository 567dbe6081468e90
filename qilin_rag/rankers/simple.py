"""What every ranker should beat: chance, and the order in which the platform showed its results."""

from __future__ import annotations

import hashlib

import numpy as np

from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.base import Ranker


class Random(Ranker):
    """A score by chance, from `seed`, request and note: the same whatever else is ranked."""

    seed: int = 0

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Uniform in [0, 1)."""
        of = (
            f"{self.seed} {requests.ids[row]} {note}"
            for row, note in zip(requests.request, requests.note_idx, strict=True)
        )
        bits = np.frombuffer(b"".join(hashlib.blake2b(key.encode(), digest_size=4).digest() for key in of), "<u4")
        scores: Floats = ((bits >> 8) / 2**24).astype(np.float32)
        return scores


class Production(Ranker):
    """As exposed: the only ranker that looks at positions. A note without a position comes last."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Minus the position."""
        scores: Floats = -np.where(requests.position >= 0, requests.position, 2**20).astype(np.float32)
        return scores
