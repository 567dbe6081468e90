"""How `run --dry-run` looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qilin_rag.cli import ui

if TYPE_CHECKING:
    from qilin_rag.plan import Plan


def print_plan(plan: Plan, as_json: bool) -> None:
    """How many calls, tokens and coins, then examples of the prompts, whole."""
    from qilin_rag.cost import format_amount

    if as_json:
        ui.print_json(plan.model_dump(mode="json"))
        return
    console = ui.console()
    console.print(f"{plan.calls:,} calls for {plan.questions:,} questions", style="bold")
    reasons = {
        f"have an answer in {plan.run}": plan.answered,
        "have an answer in the cache": plan.cached,
        "fail unasked: the prompt is too long even without a note": plan.too_long,
    }
    for reason, n in reasons.items():
        if n:
            console.print(f"{n:,} {reason}")
    if plan.cache_unknown:
        console.print(f"which answers are cached is not known, none is counted: {plan.cache_unknown}", style="yellow")
    if left_out := str(plan.left_out):
        console.print(left_out, style="yellow")
    answers = "as many as the LLM likes" if plan.answer_tokens is None else f"0 to {plan.answer_tokens:,}"
    console.print(
        f"tokens: about {plan.prompt_tokens:,} in prompts (our estimate, on the long side), {answers} in answers"
    )
    if plan.cost_to.amount is None or plan.cost_from.amount is None:
        console.print(f"cost: unknown ({plan.cost_to.unknown})")
    elif plan.cost_to.currency is None:
        console.print("cost: none")
    else:
        amounts = f"{format_amount(plan.cost_from.amount)} to {format_amount(plan.cost_to.amount)}"
        console.print(f"cost: {amounts} {plan.cost_to.currency} (prices of {plan.cost_to.as_of}, without discounts)")
    which = ("the longest", "in the middle", "the shortest") if len(plan.examples) == 3 else ("a prompt",) * 3
    for label, call in zip(which, plan.examples, strict=False):
        console.print(f"\n{label}: question {call.question_id}, about {call.prompt_tokens:,} tokens", style="bold")
        for message in call.messages:
            console.print(message["role"], style="bold")
            console.print(message["content"], soft_wrap=True)
