"""Sum up what a run used: seconds, tokens and money."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from qilin_rag.core.text import counted
from qilin_rag.core.types import Cost, Exchange, Price, QueryUse, RerankPrice, RerankUse, Summary, Times, Usage
from qilin_rag.core.units import format_amount, format_seconds
from qilin_rag.pipeline.clock import STAGES
from qilin_rag.pipeline.run_directory import Manifest

if TYPE_CHECKING:
    from qilin_rag.rankers.rerank import Reranker

_LEAST_LIMIT = 16  # tokens: a server that counts only what was not in its cache is left with fewer of a known prompt
_SAME = 0.98  # counts at a limit are alike, but for characters that were cut in two


def spent_on(lines: Iterable[Exchange]) -> Summary:
    """Sum up the tokens, uncounted replies and cached answers of lines, in one pass."""
    return Tally(lines).spent


class Tally:
    """Adds up what calls used, line by line, and decides how to read prompts that were counted short.

    A count that is too small for its prompt has one of two reasons. The server read only a part of the prompt, up to a
    limit: then all such counts are at this limit, and no prompt has a larger one; or it says itself what was in its
    cache, so that nothing is left out. Or it left out what was in its cache without a word: then the tokens of the
    prompt are not known. If the counts don't prove the first, the second is assumed.
    """

    def __init__(self, lines: Iterable[Exchange] = ()) -> None:
        """Count these lines."""
        self.cached = self.retries = 0
        self._sums: dict[bool, dict[str, int]] = {False: {}, True: {}}  # one by one, and by batch
        self._uncounted = 0
        self._largest = 0
        self._n_doubtful = self._n_doubtful_calls = 0
        self._tokens_doubtful = {False: 0, True: 0}
        self._least_doubtful: float = math.inf
        for line in lines:
            self.add(line)

    def add(self, line: Exchange) -> None:
        """Count one more line."""
        counts = {name: n for name, n in line.usage if n is not None}
        self.cached += line.cached
        self._largest = max(self._largest, counts.get("prompt_tokens", 0))
        is_doubtful = line.short_count and line.usage.cached_tokens is None and "prompt_tokens" in counts
        if is_doubtful:
            self._n_doubtful += 1
            self._least_doubtful = min(self._least_doubtful, counts["prompt_tokens"])
        if line.cached:
            return
        self.retries += line.retries
        if is_doubtful:
            self._tokens_doubtful[line.batch] += counts.pop("prompt_tokens")
            self._n_doubtful_calls += "completion_tokens" in counts
        sums = self._sums[line.batch]
        for name, n in (*counts.items(), *line.discarded):
            if n is not None:
                sums[name] = sums.get(name, 0) + n
        is_known = is_doubtful or "prompt_tokens" in counts
        if was_read(line) and not (is_known and "completion_tokens" in counts):
            self._uncounted += 1

    @property
    def has_limit(self) -> bool:
        """Return whether all prompts that were counted short are at one limit, which no prompt exceeds."""
        return self._n_doubtful > 1 and self._largest > _LEAST_LIMIT and self._least_doubtful >= _SAME * self._largest

    def is_cut(self, line: Exchange) -> bool:
        """Return whether the server read only a part of this line's prompt."""
        return line.short_count and (line.usage.cached_tokens is not None or self.has_limit)

    @property
    def usage(self) -> Usage:
        """Return the known tokens of each kind; None for a kind without any."""
        return self._usage(False).plus(self.batch_usage)

    @property
    def batch_usage(self) -> Usage:
        """Return the part of `usage` that came by batch."""
        return self._usage(True)

    def _usage(self, by_batch: bool) -> Usage:
        sums = dict(self._sums[by_batch])
        if self._tokens_doubtful[by_batch] and self.has_limit:
            sums["prompt_tokens"] = sums.get("prompt_tokens", 0) + self._tokens_doubtful[by_batch]
        return Usage(**sums)

    @property
    def uncounted(self) -> int:
        """Return the number of replies that lack one of the two token counts."""
        return self._uncounted + (0 if self.has_limit else self._n_doubtful_calls)

    @property
    def spent(self) -> Summary:
        """Return a summary of the tokens, uncounted replies and cached answers alone."""
        counted = {"cached": self.cached, "retries": self.retries, "uncounted": self.uncounted}
        return Summary(metrics={}, counts={}, usage=self.usage, batch_usage=self.batch_usage, **counted)


def was_read(line: Exchange) -> bool:
    """Return whether the server charges for a line: it replied, and no filter refused the prompt unread."""
    is_unread = line.status == "filtered" and not line.raw and not line.latency_s
    if line.batch:  # whose seconds are not known: a filter that refuses a prompt says why
        is_unread = is_unread and line.finish_reason == "content_filter" and line.error is not None
    return (line.finish_reason is not None or line.is_answered) and not is_unread


def calls_s(lines: Iterable[Exchange]) -> float | None:
    """Return the sum of the seconds of all calls; None if they were not measured."""
    seconds = [line.latency_s for line in lines]
    measured = [each for each in seconds if each is not None]
    return None if seconds and not measured else round(sum(measured), 3)


def cost_of(summary: Summary, price: Price | None) -> Cost:
    """Price a run's answers by a price list, those that came by batch apart; unknown as soon as a part of it is.

    The discounts that count are those of tokens in the provider's cache and of batches, if the price list has them.
    """
    usage, by_batch = summary.usage, summary.batch_usage
    if summary.uncounted:
        return Cost(unknown=f"{counted(summary.uncounted, 'answer')} without a count of tokens")
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return Cost(amount=0.0) if summary.cached else Cost(unknown="nothing was answered")
    if by_batch == Usage():
        return tokens_cost(usage, price)
    return add_costs(tokens_cost(usage.without(by_batch), price), tokens_cost(by_batch, price, by_batch=True))


def tokens_cost(usage: Usage, price: Price | None, by_batch: bool = False) -> Cost:
    """Price tokens, all of which came by batch or one by one; the price of no tokens is always known."""
    if usage.prompt_tokens == usage.completion_tokens == 0:
        return Cost(amount=0.0)
    if price is None:
        return Cost(unknown="no price is known; --set llm.price= gives one")
    if usage.completion_tokens is None:
        return Cost(unknown="nothing bounds the answers")
    if by_batch and price.batch_factor is None:
        return Cost(unknown="the price by batch is not known; llm.price takes batch_factor")
    if usage.cache_write_tokens and price.cache_write_per_mtok is None:
        n_tokens = counted(usage.cache_write_tokens, "token")
        what = f"{n_tokens} put into the provider's cache, at a price that is not known (cache_write_per_mtok)"
        return Cost(unknown=what)
    is_most = bool(usage.cached_tokens) and price.cached_price(by_batch) is None
    amount = price.of(usage, by_batch)
    return Cost(amount=amount, at_most=is_most, currency=price.currency, as_of=price.as_of)


def rerank_cost(use: RerankUse, reranker: Reranker) -> Cost:
    """Price what a second stage asked for; unknown as soon as a part of it is."""
    price = reranker.price
    if price is None and use.requests:
        at = "rerank.llm.price" if use.windows else "rerank.price"
        return Cost(amount=0.0) if reranker.is_free else Cost(unknown=f"no price is known; --set {at}= gives one")
    if not isinstance(price, RerankPrice):
        spent = {name: getattr(use, name) for name in ("cached", "uncounted", "usage")}
        return cost_of(Summary(metrics={}, counts={}, **spent), price)
    if not use.requests:
        return Cost(amount=0.0)
    if price.per_mtok is not None and use.uncounted:
        return Cost(unknown=f"{counted(use.uncounted, 'request')} without a count of tokens")
    amount = price.of(use.usage.prompt_tokens or 0, use.searches)
    return Cost(amount=amount, currency=price.currency, as_of=price.as_of)


def total_cost(answers: Cost, *stages: QueryUse | RerankUse | None) -> Cost:
    """Return the cost of a run: that of its answers, and of its query stage and its second stage if it has them."""
    for stage in stages:
        answers = answers if stage is None else add_costs(answers, stage.cost)
    return answers


def add_costs(one: Cost, other: Cost) -> Cost:
    """Add two costs; the sum is unknown if one is, or if their currencies differ."""
    for first, second in ((one, other), (other, one)):
        if first.amount is None or (first.amount == 0 and first.currency is None):
            return first if first.amount is None else second
    if one.currency != other.currency:
        return Cost(unknown=f"in two currencies, {one.currency} and {other.currency}")
    amount = (one.amount or 0.0) + (other.amount or 0.0)
    dates = sorted({each.as_of for each in (one, other) if each.as_of})
    return Cost(
        amount=amount, at_most=one.at_most or other.at_most, currency=one.currency, as_of=", ".join(dates) or None
    )


def price_of(manifest: Manifest) -> Price | None:
    """Return the price list that a run was started with."""
    price = manifest.config["llm"]["settings"].get("price")
    return Price.model_validate(price) if price else None


def describe(manifest: Manifest, summary: Summary) -> list[str]:
    """Describe a run in a line of seconds, if they are known, and a line of tokens and their cost."""
    times = manifest.times or Times()
    total_s = sum(getattr(times, f"{stage}_s") for stage in STAGES)
    cost = manifest.cost or Cost(unknown="not recorded")
    said = [] if manifest.queries is None else [say_queries(manifest.queries)]
    said += [] if manifest.rerank is None else [say_rerank(manifest.rerank)]
    if not said:
        lines = [say_tokens(summary, cost)]
    else:
        lines = [f"answers: {say_tokens(summary, cost_of(summary, price_of(manifest)))}", *said]
        lines += [f"altogether: cost {format_cost(cost)}"] if cost.currency else []
    if times.sessions > times.untimed:
        stages = ", ".join(f"{stage} {format_seconds(getattr(times, f'{stage}_s'))}" for stage in STAGES)
        over = f" in {times.sessions} sessions" if times.sessions > 1 else ""
        calls = f"; all calls together {format_seconds(manifest.generation_s)}" if manifest.generation_s else ""
        lines.insert(0, f"{format_seconds(total_s)}{over}: {stages}{calls}")
    if times.untimed:
        lines.append(f"{counted(times.untimed, 'session')} killed: not in these seconds")
    if times.cut_off:
        lines.append(f"{counted(times.cut_off, 'session')} cut off: the calls under way then are not in these tokens")
    return lines


def say_queries(queries: QueryUse) -> str:
    """Describe what a query stage wrote, how many questions were searched alone and why, its tokens and cost."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in queries.alone.items())
    alone = f", {sum(queries.alone.values())} searched alone ({reasons})" if reasons else ""
    failed = f", {queries.failed} failed" if queries.failed else ""
    names = ("usage", "cached", "retries", "uncounted")
    spent = Summary(metrics={}, counts={}, **{name: getattr(queries, name) for name in names})
    what = f"{counted(queries.texts, 'text')} written for {counted(queries.questions, 'question')}{alone}{failed}"
    return f"queries: {what}; {say_tokens(spent, queries.cost)}"


def say_tokens(summary: Summary, cost: Cost) -> str:
    """Describe the tokens as the server counted them, and their cost."""
    free = f"; {counted(summary.cached, 'answer')} from the cache, at no cost" if summary.cached else ""
    if summary.retries:
        free += f"; {counted(summary.retries, 'try')} beyond the first"
    if cost.amount is not None and cost.currency is None:
        return f"no tokens, no cost{free}"
    counts = {"prompt": summary.usage.prompt_tokens, "completion tokens": summary.usage.completion_tokens}
    if set(counts.values()) == {None}:
        tokens = "tokens unknown"
    else:
        tokens = " + ".join(f"{'unknown' if n is None else format(n, ',')} {kind}" for kind, n in counts.items())
    return f"{tokens}, cost {format_cost(cost)}{free}"


def say_rerank(use: RerankUse) -> str:
    """Describe what a second stage asked for, what was wrong with an LLM's replies, and the cost."""
    parts = []
    if use.windows:
        n_kept = sum(use.kept.values())
        kept = f", {n_kept} kept in the retriever's order ({n_kept / use.windows:.1%})" if n_kept else ""
        parts.append(f"{counted(use.windows, 'window')} of notes{kept}")
    parts.append(counted(use.requests, "request"))
    if use.cached:
        parts.append(f"{counted(use.cached, 'reply', 'replies')} from the cache, at no cost")
    usage, is_whole = use.usage, not use.uncounted
    if is_whole and usage.prompt_tokens is not None:
        written = f" + {usage.completion_tokens:,} completion" if usage.completion_tokens is not None else ""
        parts.append(
            f"{usage.prompt_tokens:,} prompt{written} tokens" if written else f"{usage.prompt_tokens:,} tokens"
        )
    is_free = use.cost.amount is not None and use.cost.currency is None
    parts.append("no cost" if is_free else f"cost {format_cost(use.cost)}")
    return f"reranking: {'; '.join(parts)}"


def format_cost(cost: Cost) -> str:
    """Format an amount with its currency and the date of its price list, or `unknown` and the reason."""
    if cost.amount is None:
        return f"unknown ({cost.unknown})"
    most = "at most " if cost.at_most else ""
    return f"{most}{format_amount(cost.amount)} {cost.currency} (prices of {cost.as_of})"
