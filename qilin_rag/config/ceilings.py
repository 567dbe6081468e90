"""Check that a ceiling of money can be held: each LLM has a price, and all prices are in its currency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qilin_rag.core.errors import UsageError
from qilin_rag.core.units import Amount

_EXAMPLE = "{currency: USD, prompt_per_mtok: 1, completion_per_mtok: 2, as_of: 2026-12}"


def with_currency(max_cost: Amount, asked: Iterable[tuple[str, Any]]) -> Amount:
    """Return a ceiling with the currency of the prices.

    Args:
        max_cost: The ceiling.
        asked: Each LLM that is asked, with the setting that holds it, such as `query.llm`.

    Raises:
        UsageError: if an LLM has no price, or prices or ceiling are in different currencies.
    """
    currency = max_cost.currency
    for at, llm in asked:
        if not llm.takes_tokens:
            continue
        if llm.price is None:
            raise UsageError(
                f"max_cost (--max-cost): the price of {at} is not known; give it with --set '{at}.price={_EXAMPLE}' or "
                "as price in its preset, or bound the tokens by max_tokens_total (--max-tokens-total)"
            )
        if currency not in (None, llm.price.currency):
            raise UsageError(
                f"max_cost (--max-cost) is in {currency}, but the price of {at} is in {llm.price.currency}; "
                f"give it in {llm.price.currency}"
                if max_cost.currency
                else f"max_cost (--max-cost): the LLMs have prices in {currency} and {llm.price.currency}, which can't "
                "be added; bound the tokens by max_tokens_total (--max-tokens-total)"
            )
        currency = llm.price.currency
    return max_cost._replace(currency=currency)
