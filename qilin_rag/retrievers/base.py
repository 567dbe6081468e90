"""The interface of a retriever, and the one order in which hits are ranked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from qilin_rag.data import NoteStore
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
