"""List the work before retrieval that needs a model or much time, which a dry run names and does not do."""

from __future__ import annotations

from qilin_rag.core.text import counted
from qilin_rag.data import NoteStore
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.retrievers import IndexedRetriever, Retriever
from qilin_rag.retrievers.parts import leaves

_MOST_NOTES = 50_000  # that are indexed by their words in seconds
_MOST_TEXTS = 2_000  # that a model reads in about as many


def work_before(retriever: Retriever, reranker: Reranker | None, notes: NoteStore, n_questions: int) -> list[str]:
    """Describe what a run must do before it can render prompts, one line a step; often nothing.

    A small index of words needs neither a model nor time: it is built here, and not kept.
    """
    steps = []
    for part in leaves(retriever):
        if not isinstance(part, IndexedRetriever):
            continue
        name = type(part).__name__
        if not part.has_index(notes):
            if part.encodes:
                steps.append(f"encode {counted(len(notes), 'note')} by {name}: there is no index yet")
            elif len(notes) > _MOST_NOTES:
                steps.append(f"index {counted(len(notes), 'note')} for {name}: there is no index yet")
            else:
                part.open_unkept(notes)
        elif part.encodes and n_questions > _MOST_TEXTS:
            steps.append(f"encode {counted(n_questions, 'query')} by {name}")
    if reranker is not None and (reranker.asks_server or n_questions * reranker.depth > _MOST_TEXTS):
        steps.append(f"rank {counted(n_questions * reranker.depth, 'hit')} again by {reranker.name}")
    return steps
