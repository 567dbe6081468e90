"""Retrieve by the user's history: the notes nearest to the mean vector of the notes that the user clicked last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted, is_blank
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.data.requests import HISTORY
from qilin_rag.models.sentence_encoder import Vectors
from qilin_rag.retrievers.dense.opened import OpenedIndex
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.dense.served import unit

logger = logging.getLogger(__name__)


class UserHistory(BiEncoder):
    """A two-tower retriever: the vector of a user is the weighted mean of the vectors of recently clicked notes.

    Notes are searched as by `biencoder`, in the same index. The newest note of the history has weight 1, the next one
    `decay`, then `decay`^2, and so on. A mean of unit vectors (cosine) gets unit length again. With `query_weight` w,
    the vector is w * query + (1 - w) * user.

    A request without a history (or none of whose notes has a vector) is searched by its query alone; without a query
    either, it finds nothing. Nothing but the notes' content is used: ids only look vectors up.

    Example:
        >>> UserHistory(model="BAAI/bge-small-zh-v1.5", last=5).changed()
        {'model': 'BAAI/bge-small-zh-v1.5', 'last': 5}
    """

    version: ClassVar[int] = 1

    last: PositiveInt = 10
    """The number of recently clicked notes that count, the newest first; 10 as in the paper's DCN."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The weight of a note of the history, as a multiple of that of the next newer one; 1 weights all alike."""
    query_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The weight of the query's vector, 0 to 1; the rest is the user's."""

    _dense: BiEncoder = PrivateAttr()

    @model_validator(mode="after")
    def _make_dense(self) -> UserHistory:
        given = self.model_fields_set & set(BiEncoder.model_fields)
        self._dense = BiEncoder(**{name: getattr(self, name) for name in given})
        return self

    @property
    def reads_query(self) -> bool:
        """Return False: no text that is written for a question can replace a history."""
        return False

    def open_index(self, notes: NoteStore) -> OpenedIndex:
        """Return the index of these notes, which is that of `biencoder` with the same settings."""
        opened: OpenedIndex = self._dense.open_index(notes)
        return opened

    def has_index(self, notes: NoteStore) -> bool:
        """Return whether that index is named, open or kept."""
        return self._dense.has_index(notes)

    def open_unkept(self, notes: NoteStore) -> None:
        """Index the notes for this object alone."""
        self._dense.open_unkept(notes)

    def write_index(self, notes: NoteStore, folder: Path) -> None:
        """Build that index and put it into `folder`."""
        self._dense.write_index(notes, folder)

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the `k` notes nearest to each user, whatever their score.

        Raises:
            UsageError: The questions come without histories, as those of the table dqa.
        """
        if not len(notes) or not questions:
            return [[] for _ in questions]
        if not any(HISTORY in question.meta for question in questions):
            raise UsageError(
                f"retriever history: these questions have no {HISTORY}; it searches for the requests of a task "
                "(qilin-rag retrieve --task search)"
            )
        opened = self.open_index(notes)
        by_row = self._vectors(questions, notes, opened)
        rows = sorted(by_row)
        rankings: list[list[Hit]] = [[] for _ in questions]
        if rows:
            texts = [questions[row].query for row in rows]
            vectors = np.stack([by_row[row] for row in rows]).astype(np.float32)
            by_distance = self._dense._similarity() == "euclidean"
            found, _ = opened.nearest(texts, vectors, notes, k, self.n_probe, by_distance)
            for row, hits in zip(rows, found, strict=True):
                rankings[row] = hits
        return rankings

    def _vectors(
        self, questions: Sequence[Question], notes: NoteStore, opened: OpenedIndex
    ) -> dict[int, npt.NDArray[Any]]:
        """Return the vector of each request that has one, by its place."""
        is_cosine = self._dense._similarity() == "cosine"
        users: dict[int, npt.NDArray[Any]] = {}
        for row, question in enumerate(questions):
            if (vector := self._user(question.meta.get(HISTORY, ()), notes, opened)) is not None:
                users[row] = vector
        alone = [row for row in range(len(questions)) if row not in users]
        if alone:
            logger.info("%s without a history: searched by the query alone", counted(len(alone), "request"))
        asked = range(len(questions)) if self.query_weight else alone
        asked = [row for row in asked if not is_blank(questions[row].query)]
        queries: dict[int, npt.NDArray[Any]] = {}
        if asked:
            encoded = self._dense._encode_questions([questions[row] for row in asked])
            queries = dict(zip(asked, encoded, strict=True))
        if is_cosine:
            users = {row: _unit(vector) for row, vector in users.items()}
        found = {**queries, **users}
        for row in users.keys() & queries.keys():
            mixed = self.query_weight * queries[row] + (1 - self.query_weight) * users[row]
            found[row] = _unit(mixed) if is_cosine else mixed
        return found

    def _user(self, history: Sequence[int], notes: NoteStore, opened: OpenedIndex) -> npt.NDArray[Any] | None:
        """Return the weighted mean of the vectors of a history; None if none of its notes has one."""
        recent = np.array(list(dict.fromkeys(history))[: self.last], np.int64)
        is_there = ~np.isin(recent, notes.missing(recent))
        places = notes.slots(recent[is_there])
        weights = self.decay ** np.flatnonzero(is_there)
        if opened.rows is not None:
            has_vector = np.isin(places, opened.rows)
            places, weights = np.searchsorted(opened.rows, places[has_vector]), weights[has_vector]
        if not len(places):
            return None
        vectors: Vectors = opened.vectors[places].astype(np.float32)
        mean: npt.NDArray[Any] = weights @ vectors / weights.sum()
        return mean


def _unit(vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the vector with unit length; opposite vectors, whose mean is 0, have no direction and stay 0."""
    if not vector.any():
        return vector
    scaled: npt.NDArray[Any] = unit(vector[None])[0]
    return scaled
