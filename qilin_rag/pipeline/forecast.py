"""Estimate the calls, tokens and cost of a run, and find which answers the cache holds."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field

from qilin_rag.config.run import LLMConfig, RunConfig
from qilin_rag.core.cache import cache_dir
from qilin_rag.core.errors import QilinError
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Cost, Frozen, LeftOut, Message, Question, RenderedPrompt, Usage
from qilin_rag.llms import LLM
from qilin_rag.llms.cache import ResponseCache, request_key
from qilin_rag.llms.cached_answers import kept_answer
from qilin_rag.pipeline.cost import tokens_cost
from qilin_rag.pipeline.jobs import Retrieved
from qilin_rag.pipeline.shared import Shared

T = TypeVar("T")


class Call(Frozen):
    """One call that would be made; `prompt_tokens` is our estimate, without images if their tokens are not known.

    Attributes:
        images: The most images that go with it.
    """

    question_id: str
    prompt_tokens: int
    images: int = 0
    messages: list[Message]


class Plan(Frozen):
    """The calls that a run, sweep or judge would make, and their cost.

    `steps` are what a run does first and a dry run does not: downloads, and encoding by a model. Without them prompts
    can't be made: `prompt_tokens` and costs are then unknown, and `calls` the most there can be. Without the data
    `run`, `questions` and `calls` are unknown, too; `label` names the run all the same.
    Of `questions` (or judgements), `answered` ones have an answer in `run` already, `cached` ones in the response cache
    (or will, by an earlier run of the sweep), and `too_long` ones fail unasked; `calls` are left (with `--repeat`
    several to a question). `cache_unknown`: why it can't be told what is cached from before (then nothing is).
    `prompt_tokens` is an estimate, on the long side, `answer_tokens` the most that the answers may have: `cost_from` is
    for answers of no length, `cost_to` for the longest. `examples`: the longest prompt, the middle, the shortest.
    `images` is the most that all calls send. Where it is not known what they take, `tokens_unknown` says why; then
    `text_tokens` is the estimate without them, and `prompt_tokens` and costs are unknown.
    `queries`: the calls of the run's query stage, which calls, tokens and costs include; absent without one.
    `judged_answers`: the number of answers that a judge would be asked about; None if this is no plan of a judge.
    """

    run: str | None
    label: str | None = None
    steps: list[str] = []
    questions: int | None
    answered: int
    cached: int
    cache_unknown: str | None
    too_long: int
    calls: int | None
    prompt_tokens: int | None
    answer_tokens: int | None
    cost_from: Cost
    cost_to: Cost
    left_out: LeftOut
    examples: list[Call]
    judged_answers: int | None = None
    images: int = 0
    text_tokens: int | None = None
    tokens_unknown: str | None = None
    queries: Annotated[Plan | None, Field(exclude_if=operator.not_)] = None

    @property
    def is_rendered(self) -> bool:
        """Return whether the prompts are known, so that `calls` is no upper limit."""
        return self.prompt_tokens is not None or self.tokens_unknown is not None


class _Asked(NamedTuple):
    question: Question
    found: Retrieved
    prompt: RenderedPrompt
    n_images: int = 0
    image_tokens: int = 0


def priced(llm: LLM, n_calls: int, prompt_tokens: int, by_batch: bool = False) -> dict[str, Any]:
    """Return the fields of a plan that say what this number of calls uses and costs, one by one or by batch."""
    if not llm.takes_tokens:
        prompt_tokens = 0
    most = llm.answer_budget if llm.takes_tokens else 0
    answer_tokens = None if most is None and n_calls else (most or 0) * n_calls
    return {
        "calls": n_calls,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        **{
            name: tokens_cost(Usage(prompt_tokens=prompt_tokens, completion_tokens=n), llm.price, by_batch)
            for name, n in (("cost_from", 0), ("cost_to", answer_tokens))
        },
    }


def spread(items: Sequence[T]) -> list[T]:
    """Return the first, the middle and the last item."""
    return [items[i] for i in sorted({0, len(items) // 2, len(items) - 1})] if items else []


def found_in_cache(
    config: LLMConfig, prompts: Sequence[RenderedPrompt], shared: Shared
) -> tuple[list[bool], str | None]:
    """Return for each prompt whether the cache holds its answer, or will when it is asked; or why this is unknown.

    The key contains what the server says about its model, so the server is asked once, which is free.
    """
    path, llm = cache_dir() / "responses.sqlite", shared.same(config.llm)
    if not prompts or not uses_cache(config) or _key(prompts[0], llm) is None:
        return [False] * len(prompts), None
    unknown = shared.once(("check", llm), lambda: _why_not_there(llm)) if path.exists() else None
    by_earlier_runs: set[str | None] = shared.once("planned requests", set)
    keys = [_key(prompt, llm) for prompt in prompts]
    cache = ResponseCache(path, ask_again=unknown is not None or not path.exists())
    try:
        found = [
            key is not None and (key in by_earlier_runs or kept_answer(llm, cache, key) is not None) for key in keys
        ]
    finally:
        cache.close()
    by_earlier_runs.update(keys)
    return found, unknown


def uses_cache(config: LLMConfig) -> bool:
    """Return whether the run or judge would use the cache; answers of a server that we start are not kept."""
    asks_again = isinstance(config, RunConfig) and (config.fresh or config.repeat > 1)
    return config.cache and not config.serve and not asks_again


def _why_not_there(llm: LLM) -> str | None:
    try:
        with third_party(f"llm {llm.called()}"):
            llm.check()
    except QilinError as error:
        return str(error)
    return None


def _key(prompt: RenderedPrompt, llm: LLM) -> str | None:
    with third_party(f"llm {llm.called()}"):
        request = llm.request(prompt)
        return None if request is None else request_key(request)
