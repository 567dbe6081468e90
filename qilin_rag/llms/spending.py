"""Count what calls take in money and tokens; what is not known counts as the most it can be."""

from __future__ import annotations

from typing import NamedTuple

from qilin_rag.core.types import Price, Usage

_DEAREST_WRITE = 2.0
"""The price of prompt tokens that a provider adds to its cache, in that of others: Anthropic's for an hour."""


class SpentAmount(NamedTuple):
    """Money in the currency of the price list, and tokens of prompts and answers.

    Attributes:
        cost: The money; 0 without a price.
        tokens: The number of tokens.
        is_bounded: Whether this is all; False for a call whose answer has no bound.
    """

    cost: float
    tokens: float
    is_bounded: bool = True

    def plus(self, other: SpentAmount) -> SpentAmount:
        """Return the sum of both."""
        return SpentAmount(self.cost + other.cost, self.tokens + other.tokens)

    def minus(self, other: SpentAmount) -> SpentAmount:
        """Return the difference of both, at least 0."""
        return SpentAmount(max(0.0, self.cost - other.cost), max(0.0, self.tokens - other.tokens))

    def times(self, factor: float) -> SpentAmount:
        """Return a multiple."""
        return SpentAmount(self.cost * factor, self.tokens * factor)


NOTHING = SpentAmount(0.0, 0)


class SpentBefore(NamedTuple):
    """Money and tokens that earlier calls took, and what they tell about further ones.

    Attributes:
        spent: What they took.
        excess: The largest excess of a reply over what was foreseen, at least 1.
        n_replies: The number of replies whose tokens are known.
    """

    spent: SpentAmount = NOTHING
    excess: float = 1.0
    n_replies: int = 0

    def plus(self, other: SpentBefore) -> SpentBefore:
        """Return both together."""
        excess = max(self.excess, other.excess)
        return SpentBefore(self.spent.plus(other.spent), excess, self.n_replies + other.n_replies)


UNSPENT = SpentBefore()


def excess_of(took: SpentAmount, need: SpentAmount) -> float:
    """Return by how much a reply exceeded what was foreseen; 1 if it did not."""
    if not need.is_bounded:
        return 1.0
    pairs = ((took.cost, need.cost), (took.tokens, need.tokens))
    return max(1.0, *(got / foreseen for got, foreseen in pairs if foreseen))


def spent_on(usage: Usage, price: Price | None, by_batch: bool = False) -> SpentAmount:
    """Return what tokens take; a kind of tokens without a price costs the most that it may."""
    tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
    if price is None:
        return SpentAmount(0.0, tokens)
    cost = price.of(usage, by_batch and price.batch_factor is not None)
    if usage.cache_write_tokens and price.cache_write_per_mtok is None:
        cost += (_DEAREST_WRITE - 1) * usage.cache_write_tokens * price.prompt_per_mtok / 1e6
    return SpentAmount(cost, tokens)


def most_spent_on(most: Usage, price: Price | None, by_batch: bool) -> SpentAmount:
    """Return what a call takes at most; without a bound of its answer, what its prompt takes."""
    return spent_on(most, price, by_batch)._replace(is_bounded=most.completion_tokens is not None)


def spent_on_reply(usage: Usage, most: Usage, price: Price | None, by_batch: bool, is_short: bool) -> SpentAmount:
    """Return what a reply takes.

    Args:
        usage: The tokens as the server counted them.
        most: The most tokens of the call, which replace a count that is missing.
        price: The price list.
        by_batch: Whether the reply came by batch.
        is_short: Whether the server counted fewer tokens than the prompt can have, maybe since others were cached.
    """
    prompt = usage.prompt_tokens
    if prompt is None or (is_short and usage.cached_tokens is None):
        prompt = max(prompt or 0, most.prompt_tokens or 0)
    completion = most.completion_tokens if usage.completion_tokens is None else usage.completion_tokens
    return spent_on(
        usage.model_copy(update={"prompt_tokens": prompt, "completion_tokens": completion}), price, by_batch
    )
