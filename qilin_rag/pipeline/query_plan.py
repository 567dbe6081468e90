"""Estimate the calls of a run's query stage, and add them to the plan of the run."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.types import LeftOut, Question
from qilin_rag.pipeline.cost import add_costs
from qilin_rag.pipeline.forecast import Call, Plan, found_in_cache, priced, spread
from qilin_rag.pipeline.queries import QueryWork
from qilin_rag.pipeline.shared import Shared
from qilin_rag.prompts.templates import PromptTooLongError, estimated_tokens

NOT_WRITTEN = "write the queries; until then the prompts are those with the notes of the questions alone"


def plan_queries(work: QueryWork, questions: Sequence[Question], shared: Shared, fresh: bool) -> Plan:
    """Plan the calls of a query stage about questions that are left to answer.

    Args:
        work: The query stage.
        questions: The questions without an answer.
        shared: What a sweep plans only once.
        fresh: Whether all are asked, past the response cache.
    """
    left = list(questions) if fresh else work.left(questions)
    asked, prompts = [], []
    for question in left:
        try:
            prompts.append(work.stage.render(question.query, work.config.llm.prompt_budget))
        except PromptTooLongError:
            continue
        asked.append(question)
    config = work.config.model_copy(update={"cache": work.config.cache and not fresh})
    cached, cache_unknown = found_in_cache(config, prompts, shared)
    calls = [
        Call(question_id=question.id, prompt_tokens=estimated_tokens(prompt.messages), messages=prompt.messages)
        for question, prompt, is_cached in zip(asked, prompts, cached, strict=True)
        if not is_cached
    ]
    calls.sort(key=lambda call: -call.prompt_tokens)
    return Plan(
        **priced(work.config.llm, len(calls), sum(call.prompt_tokens for call in calls), work.config.batch),
        run=str(work.directory.path),
        label=f"query {work.stage.called()} by {work.config.llm_label}",
        questions=len(questions),
        answered=len(questions) - len(left),
        cached=sum(cached),
        cache_unknown=cache_unknown,
        too_long=len(left) - len(prompts),
        left_out=LeftOut(),
        examples=spread(calls),
    )


def with_queries(plan: Plan, queries: Plan) -> Plan:
    """Return the plan of a run with the calls, tokens and cost of its query stage added."""

    def total(name: str) -> int | None:
        one, other = getattr(plan, name), getattr(queries, name)
        return None if one is None or other is None else one + other

    sums = {name: total(name) for name in ("calls", "prompt_tokens", "answer_tokens")}
    costs = {name: add_costs(getattr(plan, name), getattr(queries, name)) for name in ("cost_from", "cost_to")}
    return plan.model_copy(update={**sums, **costs, "queries": queries})
