"""Rank by what every ranker should beat: chance, and the order that candidates came in."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from qilin_rag.core.ties import text_hashes, tie_keys
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.base import Ranker


class Random(Ranker):
    """A random score by `seed`, request and note, whatever else is ranked.

    Example:
        >>> Random(seed=1).changed()
        {'seed': 1}
    """

    version: ClassVar[int] = 2

    seed: int = 0
    """The seed of the scores, an integer."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return scores uniform in [0, 1)."""
        asked = text_hashes([f"random {request}" for request in requests.ids])  # unlike the order of ties
        bits = tie_keys(asked[requests.request], requests.note_idx, self.seed)
        scores: Floats = ((bits >> np.uint64(40)) / 2**24).astype(np.float32)
        return scores


class Production(Ranker):
    """The order in which the platform showed the candidates; a note without a position comes last.

    Of recorded candidates, and of those of a TREC run, it is their order by score. Sampled ones have no order. No other
    ranker reads positions.

    Example:
        >>> Production().changed()
        {}
    """

    reads_order: ClassVar[bool] = True

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return minus the position."""
        scores: Floats = -np.where(requests.position >= 0, requests.position, 2**20).astype(np.float32)
        return scores
