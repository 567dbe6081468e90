"""Keep the calls of a run or a judge below a ceiling of money or tokens, and say what is left when they stop at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from qilin_rag.config.ceilings import with_currency
from qilin_rag.config.run import LLMConfig
from qilin_rag.core.errors import CeilingError
from qilin_rag.core.text import counted, estimate_tokens
from qilin_rag.core.types import Exchange, Usage
from qilin_rag.core.units import format_amount, round_up
from qilin_rag.llms import LLM
from qilin_rag.llms.ceiling import SpendingCeiling, recorded_in, using
from qilin_rag.llms.reservations import reservations_path, spent_on_cut_off
from qilin_rag.llms.spending import SpentBefore, excess_of, most_spent_on, spent_on, spent_on_reply
from qilin_rag.pipeline.cost import was_read

_IMAGE_TOKENS = 1_400  # of an image whose size is not known any more
_MARGIN = 1.2  # of the estimate of what is left, in the ceiling that is suggested


class Progress(NamedTuple):
    """How many questions, or judgements, are done and left."""

    done: int
    left: int


def spent_on_lines(lines: Iterable[Exchange], llm: LLM) -> SpentBefore:
    """Return what replies on disk took; a count that is missing is the most that it can be."""
    before = SpentBefore()
    for line in lines:
        if line.cached:
            continue
        before = before.plus(SpentBefore(spent_on(line.discarded, llm.price)))
        if was_read(line):
            most = Usage(prompt_tokens=_prompt_tokens(line), completion_tokens=_most_written(line, llm))
            took = spent_on_reply(line.usage, most, llm.price, line.batch, line.short_count)
            is_known = line.usage.prompt_tokens is not None and line.usage.completion_tokens is not None
            excess = excess_of(took, most_spent_on(most, llm.price, line.batch)) if is_known else 1.0
            before = before.plus(SpentBefore(took, excess, int(is_known)))
    return before


def _prompt_tokens(line: Exchange) -> int:
    messages: list[dict[str, str]] = getattr(line, "messages", [])
    n_images = len(getattr(line, "images", []))
    return sum(estimate_tokens(message["content"]) for message in messages) + n_images * _IMAGE_TOKENS


def _most_written(line: Exchange, llm: LLM) -> int:
    return estimate_tokens(line.raw) if llm.answer_budget is None else llm.answer_budget


@contextmanager
def replies_under_ceiling(
    config: LLMConfig, path: Path, replies: Callable[[], Iterable[Exchange]], progress: Callable[[], Progress]
) -> Iterator[None]:
    """Keep the calls of a judge below its ceiling, together with all `replies` that the file `path` holds before."""

    def before() -> SpentBefore:
        return spent_on_lines(replies(), config.llm).plus(SpentBefore(spent_on_cut_off(reservations_path(path))))

    with under_ceiling(config, before, progress, "judgement"), recorded_in(reservations_path(path)):
        yield


@contextmanager
def under_ceiling(
    config: LLMConfig,
    before: Callable[[], SpentBefore],
    progress: Callable[[], Progress],
    noun: str = "question",
    again: str = "the same command",
) -> Iterator[SpendingCeiling | None]:
    """Keep the calls of the block below the ceiling of `config`, if it has one.

    Args:
        config: The LLM and its settings.
        before: Returns what was spent before.
        progress: Returns what is done and left when calls stopped.
        noun: What is asked about, for the message.
        again: How to resume, for the message.

    Yields:
        The ceiling; None without one.

    Raises:
        CeilingError: if calls stopped, and the block did not catch it.
    """
    if config.max_cost is None and config.max_tokens_total is None:
        yield None
        return
    cost = config.max_cost and with_currency(config.max_cost, config.asked)
    ceiling = SpendingCeiling(cost, config.max_tokens_total, before())
    with using(ceiling):
        try:
            yield ceiling
        except CeilingError:
            raise stopped_error(ceiling, progress(), noun, again) from None


def stopped_error(ceiling: SpendingCeiling, progress: Progress, noun: str, again: str) -> CeilingError:
    """Return the error of calls that stopped: what was spent, what is left, and how to resume."""
    spent, (done, left) = ceiling.spent, progress
    rest = spent.times(left / done) if done and spent.tokens else ceiling.refused.times(left)
    needed = spent.plus(rest.times(_MARGIN)).plus(ceiling.refused)
    cost, next_tokens = ceiling.cost, spent.tokens + ceiling.refused.tokens
    is_by_tokens = cost is None or (ceiling.tokens is not None and next_tokens > ceiling.tokens)
    spent_words, rest_words = f"{spent.tokens:,.0f} tokens", f"{rest.tokens:,.0f} tokens"
    if cost is not None:
        spent_words = f"{format_amount(spent.cost)} {cost.currency} and {spent_words}"
        rest_words = f"{format_amount(rest.cost)} {cost.currency}"
    if is_by_tokens:
        name, limit = "max_tokens_total (--max-tokens-total)", f"{ceiling.tokens:,}"
        higher = f"--max-tokens-total {round_up(needed.tokens):.0f}"
    else:
        assert cost is not None
        name, limit = "max_cost (--max-cost)", f"{format_amount(cost.value)} {cost.currency}"
        higher = f"--max-cost {round_up(needed.cost):g}{cost.currency}"
    what = (
        f"{spent_words} are spent on {done:,} of {counted(done + left, noun)}, {left:,} are left for about {rest_words}"
    )
    return CeilingError(f"stopped before {name} {limit}: {what}; {again} with {higher} resumes")
