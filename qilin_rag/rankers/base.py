"""The interface of a ranker."""

from __future__ import annotations

from abc import abstractmethod

from qilin_rag.core.registry import Component
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests


class Ranker(Component):
    """Scores the candidates of requests; the highest comes first, and those of one score have no order."""

    @abstractmethod
    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """A finite score for each candidate, shape (n_candidates,), in their order.

        Neither `clicked` nor `position` may be looked at, nor which candidates stand beside one, nor how high a
        note_idx is: in Qilin it tells what was clicked.
        """
