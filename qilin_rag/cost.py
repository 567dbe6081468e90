"""What a run took: seconds by stage, tokens, and what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from qilin_rag.errors import QilinError
from qilin_rag.store import Manifest, RunDirectory
from qilin_rag.types import Cost, Exchange, Price, Summary, Times

STAGES = ("retrieval", "generation", "scoring")


class Clock:
    """The seconds of each stage in one sitting of a run."""

    def __init__(self) -> None:
        """Nothing of the sitting is written down yet."""
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._finished: set[str] = set()
        self._before = Times()
        self._asks = False
        self._is_on_record = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        started = time.perf_counter()
        try:
            yield
            self._finished.add(name)
        finally:
            self._seconds[name] += time.perf_counter() - started

    def begin(self, before: Times, asks: bool) -> Times:
        """What to write down before the first call (`asks`: there will be one); all there will be if we are killed."""
        self._before, self._asks, self._is_on_record = before, asks, True
        more = {"sittings": 1, "untimed": 1, "cut_off": int(asks)}
        return before.model_copy(update={name: getattr(before, name) + n for name, n in more.items()})

    def end(self) -> Times:
        """The times of the run with this sitting, which was begun."""
        took = {f"{stage}_s": self._seconds[stage] for stage in STAGES}
        counted = {"sittings": 1, "cut_off": int(self._asks and "generation" not in self._finished)}
        return self._before.model_copy(
            update={name: round(getattr(self._before, name) + more, 3) for name, more in {**took, **counted}.items()}
        )

    @contextmanager
    def kept_by(self, directory: RunDirectory) -> Iterator[None]:
        """A sitting that is on record leaves its seconds there also if it ends in an error, or is interrupted."""
        try:
            yield
        finally:
            if self._is_on_record:
                with suppress(QilinError):
                    directory.write_manifest(directory.read_manifest().model_copy(update={"times": self.end()}))


def is_uncounted(line: Exchange) -> bool:
    """Whether an answer came from the server without its numbers of tokens.

    What a filter refused unread is no answer.
    """
    counts = (line.usage.prompt_tokens, line.usage.completion_tokens)
    is_unread = line.status == "filtered" and counts == (None, None)
    return line.finish_reason is not None and not line.cached and not is_unread and None in counts


def calls_s(lines: Iterable[Exchange]) -> float:
    """Seconds that all calls took, one by one."""
    return round(sum(line.latency_s for line in lines), 3)


def cost_of(summary: Summary, price: Price | None) -> Cost:
    """What a run's answers cost by a price list, without discounts; unknown as soon as a part of it is."""
    prompt_tokens, completion_tokens = summary.usage.prompt_tokens, summary.usage.completion_tokens
    if summary.uncounted:
        return Cost(unknown=f"{_some(summary.uncounted, 'answer')} without a count of tokens")
    if prompt_tokens is None or completion_tokens is None:
        return Cost(amount=0.0) if summary.cached else Cost(unknown="nothing was answered")
    return tokens_cost(prompt_tokens, completion_tokens, price)


def tokens_cost(prompt_tokens: int, completion_tokens: int | None, price: Price | None) -> Cost:
    """The price of so many tokens; that of none is known in any case."""
    if prompt_tokens == completion_tokens == 0:
        return Cost(amount=0.0)
    if price is None:
        return Cost(unknown="no price is known; --set llm.price= gives one")
    if completion_tokens is None:
        return Cost(unknown="nothing bounds the answers")
    amount = price.of(prompt_tokens, completion_tokens)
    return Cost(amount=amount, currency=price.currency, as_of=price.as_of)


def price_of(manifest: Manifest) -> Price | None:
    """The price list that a run was begun with."""
    price = manifest.config["llm"]["settings"].get("price")
    return Price.model_validate(price) if price else None


def describe(manifest: Manifest, summary: Summary) -> list[str]:
    """A line of seconds, where they are known, and a line of tokens and their cost."""
    times = manifest.times
    total_s = sum(getattr(times, f"{stage}_s") for stage in STAGES)
    lines = [say_tokens(summary, manifest.cost or Cost(unknown="not recorded"))]
    if times.sittings > times.untimed:
        stages = ", ".join(f"{stage} {format_seconds(getattr(times, f'{stage}_s'))}" for stage in STAGES)
        over = f" in {times.sittings} sittings" if times.sittings > 1 else ""
        calls = f"; all calls together {format_seconds(manifest.generation_s)}" if manifest.generation_s else ""
        lines.insert(0, f"{format_seconds(total_s)}{over}: {stages}{calls}")
    if times.untimed:
        lines.append(f"{_some(times.untimed, 'sitting')} killed: not in these seconds")
    if times.cut_off:
        lines.append(f"{_some(times.cut_off, 'sitting')} cut off: the calls under way then are not in these tokens")
    return lines


def say_tokens(summary: Summary, cost: Cost) -> str:
    """Tokens as the server counted them, and what they cost."""
    free = f"; {_some(summary.cached, 'answer')} from the cache, at no cost" if summary.cached else ""
    if cost.amount is not None and cost.currency is None:
        return f"no tokens, no cost{free}"
    counts = {"prompt": summary.usage.prompt_tokens, "completion tokens": summary.usage.completion_tokens}
    if set(counts.values()) == {None}:
        tokens = "tokens unknown"
    else:
        tokens = " + ".join(f"{'unknown' if n is None else format(n, ',')} {kind}" for kind, n in counts.items())
    return f"{tokens}, cost {format_cost(cost)}{free}"


def format_cost(cost: Cost) -> str:
    """An amount with its currency and the day of its price list, or `unknown` and why."""
    if cost.amount is None:
        return f"unknown ({cost.unknown})"
    return f"{format_amount(cost.amount)} {cost.currency} (prices of {cost.as_of})"


def format_amount(amount: float) -> str:
    """Two decimals; three digits of what is less than 1."""
    decimals = 2 - math.floor(math.log10(amount)) if 0 < amount < 1 else 2
    return f"{amount:,.{decimals}f}"


def format_seconds(seconds: float) -> str:
    """Tenths of a second below a minute, then minutes and seconds, then hours and minutes."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes} min {rest_s} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _some(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
