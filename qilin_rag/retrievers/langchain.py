"""Use any LangChain retriever as the retriever of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveInt, PrivateAttr, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.plugins import import_object, make_object, refuse_secrets, source_hash
from qilin_rag.core.text import whole_number
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

logger = logging.getLogger(__name__)


class LangChainRetriever(Retriever):
    """A LangChain retriever: `langchain:package.module:factory`.

    Hits keep the retriever's order. Of several documents of one note (chunks) the best counts. Scores are those in
    metadata["score"] if all documents of a question have one, they never rise down the list, and they differ; else n
    documents score n, n-1, ..., 1.

    Example:
        >>> LangChainRetriever(spec="my_rag:retriever", settings={"top": 3}).changed()
        {'spec': 'my_rag:retriever', 'settings': {'top': 3}}
    """

    argument: ClassVar[str | None] = "spec"
    version: ClassVar[int] = 2
    operational: ClassVar[frozenset[str]] = frozenset({"max_concurrency"})

    spec: str
    """`package.module:factory`, a BaseRetriever, or a class or function that makes one; it gets `k` and `notes` if it
    has such parameters.
    """
    settings: dict[str, Any] = {}
    """The keyword arguments of the factory, a mapping without secrets."""
    id_key: str = "note_idx"
    """The key of a document's metadata that holds the note_idx."""
    max_concurrency: PositiveInt = 16
    """The most questions that are asked at once."""

    _made: tuple[NoteStore, int, BaseRetriever] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _fit_to_be_written_down(self) -> LangChainRetriever:
        if not all(self.spec.partition(":")):
            raise ValueError("expected langchain:package.module:factory")
        refuse_secrets(self.settings, self._name)
        return self

    @classmethod
    def names_code(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether a factory is named, which is always code."""
        return "spec" in settings

    def identity(self) -> dict[str, Any]:
        """Add the hash of the factory's file."""
        import_object(self.spec, self._name)
        return super().identity() | source_hash(self.spec.partition(":")[0])

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the first `k` notes that the retriever finds for each question."""
        found = self._retriever(notes, k).batch(
            [question.query for question in questions], config={"max_concurrency": self.max_concurrency}
        )
        rankings = [self._scored(documents) for documents in found]
        if n_unordered := sum(is_unordered for _, is_unordered in rankings):
            logger.warning(
                "%s: in %d of %d rankings the scores rise down the list (distances?); the order is used instead",
                self._name,
                n_unordered,
                len(rankings),
            )
        return [_hits(pairs, question.query, k) for question, (pairs, _) in zip(questions, rankings, strict=True)]

    @property
    def _name(self) -> str:
        return f"retriever langchain:{self.spec}"

    def _retriever(self, notes: NoteStore, k: int) -> BaseRetriever:
        """Return the LangChain retriever, made once for the same notes and k."""
        if self._made is None or self._made[0] is not notes or self._made[1] != k:
            require("langchain", "langchain_core", what=self._name)
            from langchain_core.retrievers import BaseRetriever

            offered = {"k": k, "notes": notes}
            self._made = notes, k, make_object(self.spec, self._name, BaseRetriever, self.settings, offered)
        return self._made[2]

    def _scored(self, documents: Sequence[Document]) -> tuple[list[tuple[int, float]], bool]:
        """Return the notes with their scores, and whether the documents were in another order than their scores."""
        note_idxs = [self._note_idx(document) for document in documents]
        scores = [_score(document) for document in documents]
        known = [score for score in scores if score is not None]
        is_unordered = any(later > earlier for earlier, later in pairwise(known))
        if is_unordered or len(known) < len(scores) or (len(known) > 1 and len(set(known)) == 1):
            known = [float(len(scores) - place) for place in range(len(scores))]
        return list(zip(note_idxs, known, strict=True)), is_unordered

    def _note_idx(self, document: Document) -> int:
        value = document.metadata.get(self.id_key)
        with suppress(TypeError, ValueError, OverflowError):  # not a whole number: the error below shows it
            if isinstance(value, str):
                if (number := whole_number(value)) is not None:
                    return number
            elif not isinstance(value, bool) and int(value) == value:
                return int(value)
        wrong = f"is {value!r:.40}" if self.id_key in document.metadata else "is missing"
        raise UsageError(
            f"{self._name}: metadata[{self.id_key!r}] {wrong} in a document that begins "
            f"{document.page_content[:30]!r}; it must hold the note_idx (another key: --set retriever.id_key=KEY)"
        )


def _score(document: Document) -> float | None:
    value = document.metadata.get("score")
    try:
        score = math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return score if math.isfinite(score) else None


def _hits(pairs: Sequence[tuple[int, float]], query: str, k: int) -> list[Hit]:
    """Rank the `k` best notes, without duplicates."""
    best: dict[int, float] = {}
    for note_idx, score in pairs:
        best.setdefault(note_idx, score)  # scores must fall
    return ranked(best, query, k)
