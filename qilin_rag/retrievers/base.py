"""The interface of a retriever, and the one order in which hits are ranked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from qilin_rag.data import NoteStore
from qilin_rag.errors import UsageError
from qilin_rag.registry import Component
from qilin_rag.retrievers.documents import note_retriever
from qilin_rag.types import Hit, Question

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever


class Retriever(Component):
    """Finds notes for questions.

    `ignores_k`: what it finds does not depend on how many are asked for. `nested`: the hits at k are the first k of
    those at a larger k, so that one search does for both.
    """

    ignores_k: ClassVar[bool] = False
    nested: ClassVar[bool] = False

    @abstractmethod
    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Up to `k` hits for each question, in the questions' order, each list ranked by (-score, note_idx).

        A note that does not match is no hit: where terms are matched, one that scores 0.
        """

    def as_langchain(self, notes: NoteStore, k: int = 5, questions: Sequence[Question] = ()) -> BaseRetriever:
        """This retriever over these notes as one of LangChain's.

        A document is title, line break and content of a note; its metadata has note_idx, title, score and rank.
        A query that is one of `questions` is searched as that one: oracle, recorded and trec know no other.
        """
        return note_retriever(self.search, notes, k, questions)


def rank_hits(
    scores: npt.NDArray[np.floating], note_idxs: npt.NDArray[np.int64], k: int, above: float = 0.0
) -> tuple[list[Hit], int]:
    """The `k` best notes with a score greater than `above`, ordered by (-score, note_idx).

    Where every score is a hit, as a similarity of vectors is, `above` is `-math.inf`. `scores` and `note_idxs` have
    shape (n_notes,). Also says how many notes were left out although they tie with the last hit: where that is not
    0, the order of ids decided who is in.
    """
    matching = np.flatnonzero(scores > above)
    if len(matching) > k:
        cut = np.partition(scores[matching], -k)[-k]
        matching = matching[scores[matching] >= cut]
    order = np.lexsort((note_idxs[matching], -scores[matching]))
    best = matching[order[:k]]
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
        raise UsageError(f"{name} gave {len(rankings)} rankings for {len(questions)} questions")
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
    return f"{len(hits)} notes where at most {k} were asked for" if k is not None and len(hits) > k else None


def min_max(hits: Sequence[Hit]) -> list[float]:
    """Their scores between 0, the lowest of these hits, and 1, the highest; all 1 where they are the same."""
    scores = [hit.score / 2 for hit in hits]  # halves, so that no difference is infinite
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [1.0 if low == high else (score - low) / (high - low) for score in scores]
