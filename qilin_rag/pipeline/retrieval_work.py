"""List the work before retrieval that needs a model or much time, which a dry run names and does not do."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.text import counted, estimate_tokens
from qilin_rag.core.types import Question
from qilin_rag.data import NoteStore
from qilin_rag.pipeline.cost import format_cost, tokens_cost
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.retrievers import IndexedRetriever, Retriever
from qilin_rag.retrievers.dense.served import ServedEncoder
from qilin_rag.retrievers.parts import leaves

_MOST_NOTES = 50_000  # that are indexed by their words in seconds
_MOST_TEXTS = 2_000  # that a model reads in about as many
_SAMPLED = 1_000  # notes whose tokens are estimated, for all


def work_before(
    retriever: Retriever, reranker: Reranker | None, notes: NoteStore, questions: Sequence[Question]
) -> list[str]:
    """Describe what a run must do before it can render prompts, one line a step; often nothing.

    A small index of words needs neither a model nor time: it is built here, and not kept. A server is not asked.
    """
    steps = []
    n_questions = len(questions)
    for part in leaves(retriever):
        if not isinstance(part, IndexedRetriever):
            continue
        name = type(part).__name__
        if isinstance(part, ServedEncoder) and part.base_url:
            steps += _served_work(part, notes, questions)
        elif not part.has_index(notes):
            if part.encodes:
                about = part.about_build(notes)
                steps.append(f"encode {counted(len(notes), 'note')} by {name}: there is no index yet{about}")
            elif len(notes) > _MOST_NOTES:
                steps.append(f"index {counted(len(notes), 'note')} for {name}: there is no index yet")
            else:
                part.open_unkept(notes)
        elif part.encodes and n_questions > _MOST_TEXTS:
            steps.append(f"encode {counted(n_questions, 'query')} by {name}")
    if reranker is not None and (reranker.asks_server or n_questions * reranker.depth > _MOST_TEXTS):
        steps.append(f"rank {counted(n_questions * reranker.depth, 'hit')} again by {reranker.name}")
    return steps


def _served_work(part: ServedEncoder, notes: NoteStore, questions: Sequence[Question]) -> list[str]:
    """Describe what a server is asked to encode, and the estimated cost."""
    query_tokens = sum(estimate_tokens(question.query) for question in questions)
    work = [(counted(len(questions), "query"), query_tokens, "")]
    if not part.has_index(notes):
        some = notes.get(notes.note_idxs[:: max(1, len(notes) // _SAMPLED)].tolist())
        in_notes = sum(estimate_tokens(note.text[: part.max_chars]) for note in some) * len(notes) // len(some)
        work.insert(0, (counted(len(notes), "note"), in_notes, ": there is no index yet"))
    return [
        f"encode {what} by {part.model} at {part.base_url}{why} (about {n_tokens:,} tokens, {_cost(part, n_tokens)})"
        for what, n_tokens, why in work
    ]


def _cost(part: ServedEncoder, n_tokens: int) -> str:
    """Return the cost of tokens in words."""
    if part.price is None:
        return "cost unknown: --set retriever.price= gives a price"
    return f"cost {format_cost(tokens_cost(n_tokens, 0, part.price))}"
