"""Define rankers that score pairs of a query and a note, each pair once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from qilin_rag.core.errors import QilinError
from qilin_rag.core.progress import stage
from qilin_rag.core.text import visible
from qilin_rag.core.types import RerankUse
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.passages import distinct_notes, note_texts
from qilin_rag.rankers.score_store import Pair, Scores, ScoreStore

_CHUNK_PAIRS = 8192  # pairs whose texts are held at a time
Keep = Callable[[Sequence[int], Sequence[float]], None]
"""Takes the places of some pairs and their scores, and keeps them on disk at once."""


class PairRanker(Ranker):
    """A ranker whose score depends on the texts of query and note alone.

    Scores are kept on disk by ranker, query and note, so that an interrupted run scores only the rest.
    """

    @property
    def by_note(self) -> bool:
        """Return whether the pairs of one note follow each other, instead of those of one query."""
        return False

    @abstractmethod
    def score_pairs(self, pairs: Sequence[Pair], keep: Keep) -> None:
        """Score each pair, and give the scores to `keep` as soon as there are some.

        Args:
            pairs: Queries with the texts of notes; those of one query follow each other (or of one note: `by_note`).
            keep: A function of the places of some pairs, and of their scores.
        """

    @property
    @abstractmethod
    def title(self) -> str:
        """Return the name in tables and in names of folders."""

    @abstractmethod
    def check(self) -> str:
        """Say what there is; raise a QilinError if the ranker can't be used here."""

    def take_use(self) -> RerankUse | None:
        """Return what was asked of a server since the last call; None if there is no server."""
        return None

    def store_identity(self) -> dict[str, Any]:
        """Return all that decides a score beside its pair."""
        return self.identity()

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Score each distinct pair of texts; notes with the same text have the same score."""
        queries, query = np.unique(np.array(requests.queries, dtype=object), return_inverse=True)
        notes, note = distinct_notes(catalogue, requests.note_idx)
        columns = np.stack([query[requests.request], note])[self._column_order]
        distinct, pair = np.unique(columns, axis=1, return_inverse=True)
        distinct = distinct[self._column_order]
        scores = np.empty(distinct.shape[1], np.float64)
        with ScoreStore(self.store_identity()) as store, stage("reranking", len(scores)) as advance:
            for start in range(0, len(scores), _CHUNK_PAIRS):
                chunk = slice(start, start + _CHUNK_PAIRS)
                of_pairs = distinct[1, chunk]
                found, at = np.unique(of_pairs, return_inverse=True)
                texts = note_texts(catalogue, notes[found])
                pairs = [(visible(queries[q]), visible(texts[i])) for q, i in zip(distinct[0, chunk], at, strict=True)]
                scores[chunk] = self._with_store(pairs, store, advance)
        # In double precision, in which a sigmoid near 1 still tells two notes apart.
        return cast(Floats, scores[pair.reshape(-1)])

    @property
    def _column_order(self) -> list[int]:
        """Return the order of query and note by which pairs are sorted."""
        return [1, 0] if self.by_note else [0, 1]

    def _with_store(self, pairs: Sequence[Pair], store: ScoreStore, advance: Callable[[int], None]) -> Scores:
        """Return the score of each pair, and have those scored that no earlier run has scored."""
        scores = store.get(pairs)
        unknown = np.flatnonzero(np.isnan(scores)).tolist()
        advance(len(pairs) - len(unknown))
        left = [pairs[row] for row in unknown]

        def keep(places: Sequence[int], new: Sequence[float]) -> None:
            if not np.isfinite(new).all():
                bad = places[int(np.flatnonzero(~np.isfinite(new))[0])]
                raise QilinError(
                    f"reranker {self.title} has no finite score of the query {left[bad][0][:40]!r} with a note; "
                    "no score of this batch is kept"
                )
            store.put([left[place] for place in places], new)
            scores[[unknown[place] for place in places]] = new
            advance(len(places))

        if left:
            self.score_pairs(left, keep)
        return scores
