"""Print what `--dry-run` foresees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qilin_rag.cli import ui
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.core.types import Cost
    from qilin_rag.pipeline.forecast import Plan


_CACHE_UNKNOWN = "which answers are cached is not known, none is counted"


def print_plan(plan: Plan, as_json: bool, subject: str = "question") -> None:
    """Print calls, tokens and cost, then examples of prompts in full; each call is about one `subject`."""
    if as_json:
        ui.print_json(plan.model_dump(mode="json"))
        return
    console = ui.console()
    for step in plan.steps:
        console.print(f"first: {step}", style="yellow")
    if plan.calls is None or plan.questions is None:
        console.print("calls, tokens and cost: not known before that; nothing was done")
        return
    if not plan.is_rendered:
        console.print(f"at most {counted(plan.calls, 'call')} for {counted(plan.questions, subject)}", style="bold")
        if plan.queries is not None:
            console.print(f"{_say_queries(plan.queries)}, among these calls")
        console.print("tokens and cost: not known before that; nothing was done")
        return
    console.print(f"{counted(plan.calls, 'call')} for {counted(plan.questions, subject)}", style="bold")
    reasons = {
        f"have an answer in {plan.run}": plan.answered,
        "have an answer in the cache": plan.cached,
        f"fail unasked: the prompt is too long{' even without a note' * (subject == 'question')}": plan.too_long,
    }
    for reason, n in reasons.items():
        if n:
            console.print(f"{n:,} {reason}")
    if plan.cache_unknown:
        console.print(f"{_CACHE_UNKNOWN}: {plan.cache_unknown}", style="yellow")
    if left_out := str(plan.left_out):
        console.print(left_out, style="yellow")
    answers = "any number" if plan.answer_tokens is None else f"0 to {plan.answer_tokens:,}"
    if (queries := plan.queries) is not None:
        console.print(f"{_say_queries(queries)}, among these calls, tokens and cost")
    if plan.images:
        console.print(f"at most {counted(plan.images, 'image')}")
    if plan.prompt_tokens is None:
        text = f"about {plan.text_tokens or 0:,} in the texts of prompts (a high estimate)"
        console.print(f"tokens: {text}, of images unknown ({plan.tokens_unknown}), {answers} in answers")
    else:
        console.print(f"tokens: about {plan.prompt_tokens:,} in prompts (a high estimate), {answers} in answers")
    if plan.judged_answers and plan.calls and plan.prompt_tokens is not None:
        calls, tokens = (n / plan.judged_answers for n in (plan.calls, plan.prompt_tokens))
        answered = counted(plan.judged_answers, "answer")
        console.print(f"{answered} to judge: {calls:.1f} calls and about {tokens:,.0f} prompt tokens each")
    if plan.cost_to.amount is None:
        console.print(f"cost: unknown ({plan.cost_to.unknown})")
    elif plan.cost_to.currency is None:
        console.print("cost: none")
    else:
        priced = f"prices of {plan.cost_to.as_of}, without discounts"
        console.print(f"cost: {_cost_range(plan.cost_from, plan.cost_to)} ({priced})")
    print_examples(plan, subject)


def _say_queries(queries: Plan) -> str:
    """Describe the calls of a query stage, and what needs none."""
    known = f", {queries.answered + queries.cached:,} written or in the cache" * bool(queries.answered + queries.cached)
    tokens = f"about {queries.prompt_tokens or 0:,} tokens in prompts, 0 to {queries.answer_tokens or 0:,} in replies"
    cost = _cost_range(queries.cost_from, queries.cost_to)
    return f"{queries.label}: {counted(queries.calls or 0, 'call')}{known}; {tokens}, cost {cost}"


def print_examples(plan: Plan, subject: str = "question") -> None:
    """Print the longest, the middle and the shortest prompt in full."""
    console = ui.console()
    which = ("the longest", "in the middle", "the shortest") if len(plan.examples) == 3 else ("a prompt",) * 3
    for label, call in zip(which, plan.examples, strict=False):
        images = f", at most {counted(call.images, 'image')}" if call.images else ""
        tokens = f"about {call.prompt_tokens:,} tokens{' of text' if plan.tokens_unknown else ''}{images}"
        console.print(f"\n{label}: {subject} {call.question_id}, {tokens}", style="bold")
        for message in call.messages:
            console.print(message["role"], style="bold")
            console.print(message["content"], soft_wrap=True)


def print_plans(plans: list[Plan], as_json: bool) -> None:
    """Print a line for each run, the sums by currency, and examples of prompts of one run."""
    from rich.table import Table
    from rich.text import Text

    if as_json:
        ui.print_json([plan.model_dump(mode="json") for plan in plans])
        return
    console = ui.console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    for column in ("calls", "prompt tokens", "cost"):
        table.add_column(column, justify="right")
    for plan in plans:
        cost = _cost_range(plan.cost_from, plan.cost_to)
        table.add_row(Text(_name(plan)), _calls(plan), _number(plan.prompt_tokens), cost)
    console.print(table)
    for step in dict.fromkeys(step for plan in plans for step in plan.steps):
        console.print(f"first: {step}", style="yellow")
    console.print(f"{counted(len(plans), 'run')}: {_total_calls(plans)}, {_total_tokens(plans)}", style="bold")
    console.print(f"cost: {_total_cost(plans)}, without discounts")
    for why in dict.fromkeys(plan.tokens_unknown for plan in plans if plan.tokens_unknown):
        console.print(f"tokens of images: {why}", style="yellow")
    for why in dict.fromkeys(plan.cache_unknown for plan in plans if plan.cache_unknown):
        console.print(f"{_CACHE_UNKNOWN}: {why}", style="yellow")
    if first := next((plan for plan in plans if plan.examples), None):
        console.print(f"\nfor example, {_name(first)}:")
        print_examples(first)


def _name(plan: Plan) -> str:
    """Return the name of the run's directory; without the data it has none yet, and its label stands for it."""
    from pathlib import Path

    return Path(plan.run).name if plan.run else plan.label or ""


def _calls(plan: Plan) -> str:
    is_most = plan.calls is not None and not plan.is_rendered
    return f"{'at most ' * is_most}{_number(plan.calls)}"


def _number(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _total_calls(plans: list[Plan]) -> str:
    known = [plan for plan in plans if plan.calls is not None]
    if not known:
        return "calls unknown"
    most = "at most " if any(not plan.is_rendered for plan in known) else ""
    lacking = _unknown_for(len(plans) - len(known), plans)
    return f"{most}{counted(sum(plan.calls or 0 for plan in known), 'call')}{lacking and f' ({lacking})'}"


def _total_tokens(plans: list[Plan]) -> str:
    known = [plan.prompt_tokens for plan in plans if plan.prompt_tokens is not None]
    if not known:
        return "prompt tokens unknown"
    lacking = _unknown_for(len(plans) - len(known), plans)
    return f"about {sum(known):,} prompt tokens ({'; '.join(['a high estimate', *filter(None, [lacking])])})"


def _unknown_for(n_unknown: int, plans: list[Plan]) -> str:
    return f"unknown for {n_unknown} of {counted(len(plans), 'run')}" if n_unknown else ""


def _total_cost(plans: list[Plan]) -> str:
    """Sum the costs by currency, and say how many are unknown."""
    from qilin_rag.core.types import Cost

    parts = []
    for currency in sorted({plan.cost_to.currency for plan in plans if plan.cost_to.currency}):
        ours = [plan for plan in plans if plan.cost_to.currency == currency]
        low = sum(plan.cost_from.amount or 0 for plan in ours)
        high = sum(plan.cost_to.amount or 0 for plan in ours)
        parts.append(_cost_range(Cost(amount=low, currency=currency), Cost(amount=high, currency=currency)))
    if unknown := _unknown_for(sum(plan.cost_to.amount is None for plan in plans), plans):
        parts.append(unknown)
    return " + ".join(parts) or "none"


def _cost_range(low: Cost, high: Cost) -> str:
    from qilin_rag.core.units import format_amount

    if high.amount is None or low.amount is None:
        return "unknown"
    return f"{format_amount(low.amount)} to {format_amount(high.amount)} {high.currency}" if high.currency else "none"
