"""Take an answer from the response cache or ask for it, and tell whether a completion is an answer."""

from __future__ import annotations

from qilin_rag.core.text import has_words
from qilin_rag.core.types import NO_TOKENS, Completion, Mark, RenderedPrompt, Status, Usage
from qilin_rag.llms.base import LLM
from qilin_rag.llms.cache import ResponseCache, request_key
from qilin_rag.llms.ceiling import ask
from qilin_rag.llms.replies import FILTERED, LENGTH, PASSING, REFUSED, STOP, read_ending


async def cached_completion(
    llm: LLM, cache: ResponseCache | None, prompt: RenderedPrompt
) -> tuple[Completion, str | None]:
    """Return the LLM's answer, from the response cache if it holds one for the same request.

    Returns:
        The completion, and the key to keep it under; None if it must not be kept.
    """
    request = llm.request(prompt) if cache else None
    if request is None or cache is None:
        return await ask(llm, prompt), None
    key = request_key(request)
    if found := kept_answer(llm, cache, key):
        return found.model_copy(
            update={"cached": True, "latency_s": 0.0, "retries": 0, "batch": False, "discarded": Usage()}
        ), None
    return await ask(llm, prompt), key


def kept_answer(llm: LLM, cache: ResponseCache, key: str) -> Completion | None:
    """Return the cached answer to a request; None if there is none, or it holds no usable answer."""
    kept = cache.get(key)
    read = kept and llm.read_again(kept)
    return read if read and is_answer(read) else None


def is_answer(completion: Completion) -> bool:
    """Return whether a completion has an answer, whole or cut off."""
    return status_of(completion)[0] in ("ok", "truncated") and has_answer(completion)


def status_of(completion: Completion) -> tuple[Status, list[Mark]]:
    """Return the status of a completion, and the marks that say what is doubtful about it."""
    ended = read_ending(completion.finish_reason)
    if ended in (REFUSED, FILTERED):
        return "filtered", []
    if ended == PASSING:
        return "failed", []
    if ended == LENGTH:
        return "truncated", completion.marks
    if not has_answer(completion):
        return "empty", []
    return "ok", completion.marks if ended == STOP else [*completion.marks, "odd_ending"]


def has_answer(completion: Completion) -> bool:
    """Return whether a completion has any text to read, or is one of a reader that takes no tokens."""
    return has_words(completion.text) or completion.usage == NO_TOKENS
