"""Define the interface of a ranker."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from qilin_rag.core.registry import Component
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests


class Ranker(Component):
    """A ranker scores the candidates of requests.

    The candidate with the highest score is first; candidates with equal scores have no order.

    Example:
        >>> import numpy as np
        >>> class Shortest(Ranker):
        ...     def score(self, requests, catalogue):
        ...         texts = [catalogue.notes.get([note_idx])[0].text for note_idx in requests.note_idx.tolist()]
        ...         return np.array([-len(text) for text in texts], np.float32)
        >>> Shortest().changed()
        {}
    """

    reads_order: ClassVar[bool] = False
    """Whether it ranks by `position`, the order that candidates came in."""
    reads_clicks: ClassVar[bool] = False
    """Whether it reads `Catalogue.clicks`, the clicks of all users, which is None for other rankers."""

    @property
    def is_click_logit(self) -> bool:
        """Return whether sigmoid(score) is the probability that a shown candidate is clicked, for LogLoss."""
        return False

    @abstractmethod
    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Score each candidate.

        The score must not depend on `clicked`, on `position` (unless `reads_order`), on the other candidates, on the
        size of a note_idx, which reveals in Qilin what was clicked, or on clicks that are not before the request.

        Args:
            requests: The requests with their candidates.
            catalogue: The notes and users of the data, and its clicks if it `reads_clicks`.

        Returns:
            A finite score for each candidate, shape (n_candidates,), in their order.
        """
