"""The interface of a retriever, and the one order in which hits are ranked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import Component
from qilin_rag.core.text import counted
from qilin_rag.core.ties import rank_order
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.documents import note_retriever

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever


class Retriever(Component):
    """Finds notes for questions.

    `ignores_k`: what it finds does not depend on how many are asked for. `nested`: the hits at k are the first k of
    those at a larger k, so that one search does for both.

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

    @abstractmethod
    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Up to `k` hits for each question, in the questions' order, each list best first.

        Ties are ordered by `ties.ranked` or `rank_hits`: in Qilin the ids of notes tell what was clicked.

        A note that does not match is no hit: where terms are matched, one that scores 0.
        """

    def as_langchain(self, notes: NoteStore, k: int = 5, questions: Sequence[Question] = ()) -> BaseRetriever:
        """This retriever over these notes as one of LangChain's.

        A document is title, line break and content of a note; its metadata has note_idx, title, score and rank.
        A query that is one of `questions` is searched as that one: oracle, recorded and trec know no other.
        """
        return note_retriever(self.search, notes, k, questions)


def rank_hits(
    scores: npt.NDArray[np.floating], note_idxs: npt.NDArray[np.int64], k: int, query: str, above: float = 0.0
) -> tuple[list[Hit], int]:
    """Rank the `k` best notes of a query: by falling score, ties by a hash of query and note (`ties`).

    Args:
        scores: Shape (n_notes,).
        note_idxs: Shape (n_notes,), each note once.
        k: How many notes are wanted.
        query: The text of the query.
        above: Only a higher score is a hit; `-math.inf` where every score is one, as a similarity of vectors is.

    Returns:
        The hits, and how many notes were left out although they tie with the last hit: the hash decided which.
    """
    matching = np.flatnonzero(scores > above)
    if len(matching) > k:
        cut = np.partition(scores[matching], -k)[-k]
        matching = matching[scores[matching] >= cut]
    best = matching[rank_order(scores[matching], note_idxs[matching], query)[:k]]
    found = zip(note_idxs[best].tolist(), scores[best].tolist(), strict=True)
    hits = [Hit(note_idx=note_idx, score=score, rank=rank) for rank, (note_idx, score) in enumerate(found, start=1)]
    return hits, len(matching) - len(best)


def checked_rankings(
    name: str, questions: Sequence[Question], found: Iterable[Iterable[Hit]], k: int | None
) -> list[list[Hit]]:
    """What a retriever, perhaps of the user's own, found for these questions; a UsageError where that is no ranking.

    `k`: how many notes it was asked for, where that binds it.
    """
    rankings = [list(hits) for hits in found]
    if len(rankings) != len(questions):
        raise UsageError(f"{name} gave {counted(len(rankings), 'ranking')} for {counted(len(questions), 'question')}")
    for question, hits in zip(questions, rankings, strict=True):
        if problem := _ranking_problem(hits, k):
            raise UsageError(f"{name}, question {question.id}: {problem}")
    return rankings


def _ranking_problem(hits: Sequence[Hit], k: int | None) -> str | None:
    """What is wrong with one ranking."""
    if [hit.rank for hit in hits] != list(range(1, len(hits) + 1)):
        return "ranks must be 1, 2, ... in this order"
    if len({hit.note_idx for hit in hits}) < len(hits):
        return "a note is named twice"
    return f"{counted(len(hits), 'note')} where at most {k} were asked for" if k is not None and len(hits) > k else None


def min_max(hits: Sequence[Hit]) -> list[float]:
    """Their scores between 0, the lowest of these hits, and 1, the highest; all 1 where they are the same."""
    scores = [hit.score / 2 for hit in hits]  # halves, so that no difference is infinite
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [1.0 if low == high else (score - low) / (high - low) for score in scores]
