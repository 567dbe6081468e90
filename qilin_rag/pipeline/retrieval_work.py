"""List the work before retrieval that needs a model or much time, which a dry run names and does not do."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.text import counted, estimate_tokens
from qilin_rag.core.types import Cost, Question, Usage
from qilin_rag.data import NoteStore
from qilin_rag.pipeline.cost import format_cost, tokens_cost
from qilin_rag.rankers.listwise import LLMReranker
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.rankers.served import ServedReranker
from qilin_rag.rankers.windows import count_windows
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
        ranked = f"rank {counted(n_questions * reranker.depth, 'hit')} again by {reranker.name}"
        steps.append(ranked + _most_asked(reranker, notes, questions))
    return steps


def _most_asked(reranker: Reranker, notes: NoteStore, questions: Sequence[Question]) -> str:
    """Describe what a second stage asks at most, if nothing is kept from before, and the estimated cost."""
    ranker, n_questions = reranker.ranker, len(questions)
    depth = min(reranker.depth, len(notes))
    sample = notes.get(notes.note_idxs[:: max(1, len(notes) // _SAMPLED)].tolist())
    if isinstance(ranker, LLMReranker):
        of_question = count_windows(depth, ranker.window, ranker.moves)
        n_windows = n_questions * of_question
        queries = [question.query for question in questions]
        n_tokens = of_question * ranker.prompt_tokens(queries, sample, min(depth, ranker.window))
        costs = [
            tokens_cost(Usage(prompt_tokens=n_tokens, completion_tokens=n), ranker.price)
            for n in (0, _most_answered(ranker, n_windows))
        ]
        unknown = "cost unknown: --set rerank.llm.price= gives a price"
        cost = unknown if ranker.price is None else f"cost {' to '.join(dict.fromkeys(map(format_cost, costs)))}"
        return f" (at most {counted(n_windows, 'window')}, about {n_tokens:,} prompt tokens, {cost})"
    if not isinstance(ranker, ServedReranker) or ranker.price is None:
        return ""
    n_requests = n_questions * -(-depth // ranker.batch_size)
    of_notes = sum(estimate_tokens(note.text) for note in sample) * depth // max(1, len(sample))
    n_tokens = sum(of_notes + depth * estimate_tokens(question.query) for question in questions)
    amount = Cost(
        amount=ranker.price.of(n_tokens, n_requests), currency=ranker.price.currency, as_of=ranker.price.as_of
    )
    what = f"about {n_tokens:,} tokens" if ranker.price.per_mtok is not None else counted(n_requests, "search")
    return f" (at most {what}, cost {format_cost(amount)})"


def _most_answered(ranker: LLMReranker, n_windows: int) -> int | None:
    """Return the most tokens of all replies; None if nothing bounds them."""
    return None if ranker.answer_budget is None else n_windows * ranker.answer_budget


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
    return f"cost {format_cost(tokens_cost(Usage(prompt_tokens=n_tokens, completion_tokens=0), part.price))}"
