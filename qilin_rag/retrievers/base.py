"""Define the interface of a retriever, and the one order in which hits are ranked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import Component
from qilin_rag.core.text import counted
from qilin_rag.core.ties import rank_order
from qilin_rag.core.types import Hit, Question, Wording
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.documents import note_retriever

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever


class Retriever(Component):
    """A retriever finds notes for questions.

    A subclass implements `search`. Its settings are pydantic fields; three class variables describe its rankings:

    Attributes:
        ignores_k: Whether the number of hits does not depend on `k`.
        nested: Whether the hits at `k` are the first `k` of those at a larger `k`, so that one search serves both.
        one_by_one: Whether the hits of a question are exactly the same, scores included, whatever other questions are
            searched with it, and another thread may search. A run then asks its first questions before the last are
            retrieved.

    Example:
        >>> class First(Retriever):
        ...     def search(self, questions, notes, k):
        ...         firsts = enumerate(notes.note_idxs[:k].tolist(), start=1)
        ...         hits = [Hit(note_idx=note_idx, score=-rank, rank=rank) for rank, note_idx in firsts]
        ...         return [hits for _ in questions]
        >>> from qilin_rag.data import load_dataset
        >>> data = load_dataset("sample")
        >>> [len(hits) for hits in First().search(data.questions[:2], data.notes, 3)]
        [3, 3]
    """

    ignores_k: ClassVar[bool] = False
    nested: ClassVar[bool] = False
    one_by_one: ClassVar[bool] = False

    @abstractmethod
    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return up to `k` hits for each question.

        A note that does not match is not a hit: for a retriever that matches terms, one that scores 0. Order ties by
        `core.ties.ranked` or `rank_hits`, because the ids of Qilin's notes reveal which notes were clicked.

        Args:
            questions: The questions to search for.
            notes: The corpus.
            k: The most hits to return for a question.

        Returns:
            One ranking for each question, in the order of `questions`; the best hit first, with ranks 1, 2, ...
        """

    @property
    def reads_query(self) -> bool:
        """Return whether the text of the question decides the hits; one that looks hits up does not search by it."""
        return True

    @property
    def most_hits(self) -> int | None:
        """Return the most hits that it can be asked for; None if there is no limit."""
        return None

    @classmethod
    def usual_top_k(cls, settings: Mapping[str, Any]) -> int | None:
        """Return the number of notes that these settings fix, the default of `top_k`; None if they fix none."""
        return None

    def check_k(self, k: int) -> None:
        """Raise a UsageError if the settings contradict a search for `k` hits. The default accepts any `k`."""

    def as_langchain(self, notes: NoteStore, k: int = 5, questions: Sequence[Question] = ()) -> BaseRetriever:
        """Return this retriever as a LangChain retriever over these notes.

        The content of a document is the title of a note, a line break and its content. Its metadata holds `note_idx`,
        `title`, `score` and `rank`.

        Args:
            notes: The corpus to search.
            k: The most documents to return for a query.
            questions: Queries equal to one of these are searched as that question. `oracle`, `recorded` and `trec` find
                nothing for other queries.

        Returns:
            A `BaseRetriever` that can be used from several threads.

        Raises:
            UsageError: LangChain is not installed.
        """
        return note_retriever(self.search, notes, k, questions)


class BestNotes(NamedTuple):
    """The best notes of a query in rank order.

    Attributes:
        note_idxs: Shape (n_hits,).
        scores: Shape (n_hits,).
        left_out: The number of notes that tie with the last one but were left out by the hash.
    """

    note_idxs: npt.NDArray[np.int64]
    scores: npt.NDArray[np.floating]
    left_out: int

    def hits(self) -> list[Hit]:
        """Return them as a ranking."""
        found = zip(self.note_idxs.tolist(), self.scores.tolist(), strict=True)
        ranked = enumerate(found, start=1)
        fields = [{"note_idx": note_idx, "score": score, "rank": rank} for rank, (note_idx, score) in ranked]
        return _list_of_hits().validate_python(fields)  # faster than to make one after the other


@cache
def _list_of_hits() -> TypeAdapter[list[Hit]]:
    return TypeAdapter(list[Hit])


def best_notes(
    scores: npt.NDArray[np.floating], note_idxs: npt.NDArray[np.int64], k: int, query: str, above: float = 0.0
) -> BestNotes:
    """Choose the `k` best notes of a query, by falling score; order ties by a hash of query and note (`core.ties`).

    Args:
        scores: Shape (n_notes,).
        note_idxs: Shape (n_notes,), without duplicates.
        k: The most notes to return.
        query: The text of the query.
        above: Only a note with a higher score is a hit; `-math.inf` makes every note one, as for similarities of
            vectors.
    """
    matching = np.flatnonzero(scores > above)
    if len(matching) > k:
        cut = np.partition(scores[matching], -k)[-k]
        matching = matching[scores[matching] >= cut]
    best = matching[rank_order(scores[matching], note_idxs[matching], query)[:k]]
    return BestNotes(note_idxs[best], scores[best], len(matching) - len(best))


def rank_hits(
    scores: npt.NDArray[np.floating], note_idxs: npt.NDArray[np.int64], k: int, query: str, above: float = 0.0
) -> tuple[list[Hit], int]:
    """Rank the `k` best notes of a query as hits; the arguments are those of `best_notes`.

    Returns:
        The hits, and the number of notes that tie with the last hit but were left out by the hash.
    """
    best = best_notes(scores, note_idxs, k, query, above)
    return best.hits(), best.left_out


def checked_rankings(
    name: str, questions: Sequence[Question], found: Iterable[Iterable[Hit]], k: int | None
) -> list[list[Hit]]:
    """Validate the rankings that a retriever returned.

    Args:
        name: The retriever in messages.
        questions: The questions that it was asked.
        found: One ranking for each question.
        k: The most hits that a ranking may have; None if there is no limit.

    Returns:
        The rankings as lists.

    Raises:
        UsageError: The number of rankings is wrong, or a ranking has wrong ranks, duplicate notes or too many hits.
    """
    rankings = [list(hits) for hits in found]
    if len(rankings) != len(questions):
        raise UsageError(f"{name} gave {counted(len(rankings), 'ranking')} for {counted(len(questions), 'question')}")
    for question, hits in zip(questions, rankings, strict=True):
        if problem := _ranking_problem(hits, k):
            raise UsageError(f"{name}, question {question.id}: {problem}")
    return rankings


def _ranking_problem(hits: Sequence[Hit], k: int | None) -> str | None:
    """Return what is wrong with a ranking; None if nothing is."""
    if [hit.rank for hit in hits] != list(range(1, len(hits) + 1)):
        return "ranks must be 1, 2, ... in this order"
    if len({hit.note_idx for hit in hits}) < len(hits):
        return "a note is named twice"
    return f"{counted(len(hits), 'note')}, but at most {k} were asked for" if k is not None and len(hits) > k else None


def min_max(hits: Sequence[Hit]) -> list[float]:
    """Scale the scores of hits to 0 for the lowest and 1 for the highest; all are 1 if they are equal."""
    scores = [hit.score / 2 for hit in hits]  # halves, so that no difference overflows
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [1.0 if low == high else (score - low) / (high - low) for score in scores]


def rows_by_task(questions: Sequence[Question]) -> dict[Literal["query", "document"], list[int]]:
    """Return the places of the questions that a model encodes as queries, and of those that it encodes as notes.

    A hypothetical passage (HyDE, Gao et al. 2022) is encoded as notes are.
    """
    rows: dict[Literal["query", "document"], list[int]] = {}
    for row, question in enumerate(questions):
        is_passage = isinstance(question, Wording) and question.is_passage
        rows.setdefault("document" if is_passage else "query", []).append(row)
    return rows
