"""Calls stay below a ceiling of money or tokens, whatever their number at a time and whatever comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import PrivateAttr

from qilin_rag.core.errors import CeilingError, QilinError, UsageError
from qilin_rag.core.event_loops import for_each, run_async
from qilin_rag.core.text import estimate_tokens
from qilin_rag.core.types import Completion, Message, Price, RenderedPrompt, Usage
from qilin_rag.core.units import Amount, read_amount, round_up
from qilin_rag.llms.base import LLM, LLMError
from qilin_rag.llms.ceiling import SpendingCeiling, ask, using
from qilin_rag.llms.reservations import spent_on_cut_off
from qilin_rag.llms.spending import SpentBefore

PRICE = Price(currency="USD", prompt_per_mtok=1000, completion_per_mtok=4000, as_of="2026-11")
BUDGET = 200


def prompt_of(n_chars: int) -> RenderedPrompt:
    messages: list[Message] = [{"role": "user", "content": "水" * n_chars}]
    return RenderedPrompt(messages=messages, query="水", notes=[], notes_given=0)


class Payer(LLM):
    """Charges for each call as `usage_of` says, and keeps what each cost."""

    price: Price | None = PRICE
    budget: int | None = BUDGET

    _rng: random.Random = PrivateAttr()
    _usage_of: Callable[[random.Random, int], Usage] = PrivateAttr()
    _charges: list[Usage] = PrivateAttr(default_factory=list)
    _n_at_once: int = PrivateAttr(default=0)
    _most_at_once: int = PrivateAttr(default=0)

    @classmethod
    def making(cls, seed: int, usage_of: Callable[[random.Random, int], Usage], budget: int | None = BUDGET) -> Payer:
        payer = cls(budget=budget)
        payer._rng, payer._usage_of = random.Random(seed), usage_of
        return payer

    @property
    def answer_budget(self) -> int | None:
        return self.budget

    @property
    def costs(self) -> list[float]:
        return [PRICE.of(usage) for usage in self._charges]

    @property
    def tokens(self) -> list[int]:
        return [(usage.prompt_tokens or 0) + (usage.completion_tokens or 0) for usage in self._charges]

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        self._n_at_once += 1
        self._most_at_once = max(self._most_at_once, self._n_at_once)
        try:
            await asyncio.sleep(self._rng.random() * 0.002)
            n_prompt = estimate_tokens(prompt.messages[0]["content"])
            charged = self._usage_of(self._rng, n_prompt)
            kind = self._rng.random()
            if kind < 0.05:
                raise LLMError("refused")  # free
            self._charges.append(charged)
            if kind < 0.1:
                raise LLMError("every try was charged, and discarded", discarded=charged)
            told = Usage() if kind < 0.15 else charged
            return Completion(text="答", raw="答", model="m", finish_reason="stop", usage=told, latency_s=0.1)
        finally:
            self._n_at_once -= 1


def announced(rng: random.Random, n_prompt: int) -> Usage:
    return Usage(prompt_tokens=rng.randint(n_prompt // 2, n_prompt), completion_tokens=rng.randint(1, BUDGET))


def longer(rng: random.Random, n_prompt: int) -> Usage:
    """Some prompts that are counted as more than was estimated, and some answers that are longer than announced."""
    return Usage(prompt_tokens=int(n_prompt * rng.uniform(0.5, 1.5)), completion_tokens=rng.randint(1, 3 * BUDGET))


def ask_about(ceiling: SpendingCeiling, llm: LLM, n_calls: int, concurrency: int, rng: random.Random) -> bool:
    """Ask until all is done or the ceiling stops it; return whether it did."""

    async def one(n_chars: int) -> None:
        with contextlib.suppress(LLMError):
            await ask(llm, prompt_of(n_chars))

    jobs = [rng.randint(10, 300) for _ in range(n_calls)]
    try:
        with using(ceiling):
            run_async(lambda: for_each(jobs, one, concurrency))
    except CeilingError:
        return True
    return False


@pytest.mark.parametrize("usage_of", [announced, longer])
@pytest.mark.parametrize("seed", range(20))
def test_no_more_than_one_call_passes_the_ceiling(seed: int, usage_of: Callable[[random.Random, int], Usage]) -> None:
    rng = random.Random(seed)
    concurrency, dollars = rng.randint(1, 40), rng.uniform(0.1, 40)
    payer = Payer.making(seed, usage_of)
    ceiling = SpendingCeiling(Amount(dollars, "USD"), None)
    assert ask_about(ceiling, payer, 150, concurrency, rng) == ceiling.is_reached
    assert sum(payer.costs) <= dollars + max(payer.costs, default=0.0)
    if usage_of is announced:
        assert sum(payer.costs) <= dollars
    if ceiling.is_reached:  # nothing fits any more, and nothing is under way
        assert ceiling.spent.cost + ceiling.refused.cost * 3.5 > dollars
        assert not payer._n_at_once


@pytest.mark.parametrize("seed", range(10))
def test_tokens_need_no_price(seed: int) -> None:
    rng = random.Random(seed)
    concurrency, most = rng.randint(1, 40), rng.randint(100, 40_000)
    payer = Payer.making(seed, announced).model_copy(update={"price": None})
    ceiling = SpendingCeiling(None, most)
    ask_about(ceiling, payer, 100, concurrency, rng)
    assert sum(payer.tokens) <= most


def test_a_ceiling_far_away_takes_no_call_out_of_the_same_time() -> None:
    payer = Payer.making(1, announced)
    assert not ask_about(SpendingCeiling(Amount(1000.0, "USD"), 10**9), payer, 100, 16, random.Random(1))
    assert payer._most_at_once == 16


def test_answers_without_a_bound_are_taken_to_be_as_long_as_the_longest_so_far() -> None:
    for seed in range(3):
        payer = Payer.making(seed, announced, budget=None)
        ceiling = SpendingCeiling(Amount(20.0, "USD"), None)
        assert ask_about(ceiling, payer, 150, 16, random.Random(seed))
        assert sum(payer.costs) <= 20 + max(payer.costs)
        assert payer._most_at_once > 1


def test_a_ceiling_below_one_call_asks_nothing() -> None:
    payer = Payer.making(1, announced)
    ceiling = SpendingCeiling(Amount(0.01, "USD"), None)
    assert ask_about(ceiling, payer, 50, 16, random.Random(1)) and not payer.costs
    assert ask_about(ceiling, payer, 50, 1, random.Random(1)) and not payer.costs


class Together(Payer):
    """Answers only when as many calls wait as there are workers that don't wait for others."""

    _calls: list[asyncio.Future[None]] = PrivateAttr(default_factory=list)
    _n_standing_by: int = PrivateAttr(default=0)

    @property
    def by_batch(self) -> bool:
        return True

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.append(call)
        self.look()
        await call
        return await super().generate(prompt)

    def look(self) -> None:
        if len(self._calls) + self._n_standing_by >= 30:
            for call in self._calls:
                call.set_result(None)
            self._calls.clear()

    def __enter__(self) -> None:
        self._n_standing_by += 1
        self.look()

    def __exit__(self, *error: object) -> None:
        self._n_standing_by -= 1


def test_who_collects_calls_does_not_wait_for_one_that_waits_for_the_ceiling() -> None:
    collecting = Together(budget=BUDGET)
    collecting._rng, collecting._usage_of = random.Random(1), announced
    ceiling = SpendingCeiling(Amount(9.0, "USD"), None)
    ceiling.while_waiting = lambda: collecting
    assert ask_about(ceiling, collecting, 300, 30, random.Random(1))
    assert 5 < sum(collecting.costs) <= 9


def test_all_calls_that_wait_stop_at_the_ceiling() -> None:
    payer = Payer.making(5, announced)

    async def gather() -> list[object]:
        return await asyncio.gather(*(ask(payer, prompt_of(200)) for _ in range(60)), return_exceptions=True)

    with using(SpendingCeiling(Amount(5.0, "USD"), None)):
        ended = asyncio.run(gather())
    assert {type(each) for each in ended} <= {Completion, CeilingError, LLMError}
    assert sum(isinstance(each, CeilingError) for each in ended) > 30


def test_a_disk_that_is_full_leaves_no_reservation(tmp_path: Path) -> None:
    ceiling, payer = SpendingCeiling(Amount(500.0, "USD"), None), Payer.making(3, announced)
    with using(ceiling):
        with ceiling.recorded_in(tmp_path / "no-folder" / "reservations.jsonl"), pytest.raises(QilinError):
            asyncio.run(ask(payer, prompt_of(10)))
        assert not payer.costs and ceiling.spent.cost == 0
        assert asyncio.run(ask(payer, prompt_of(10))).text == "答"


def test_calls_that_were_cut_off_count_as_spent(tmp_path: Path) -> None:
    class Endless(Payer):
        async def generate(self, prompt: RenderedPrompt) -> Completion:
            await asyncio.Event().wait()
            raise AssertionError

    path = tmp_path / "reservations.jsonl"
    ceiling = SpendingCeiling(Amount(50.0, "USD"), None)

    async def cut_off() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(ask(Endless(), prompt_of(100)) for _ in range(3))), 0.05)

    with using(ceiling), ceiling.recorded_in(path):
        asyncio.run(cut_off())
    most = PRICE.of(Usage(prompt_tokens=120, completion_tokens=BUDGET))
    assert ceiling.spent.cost == pytest.approx(3 * most)
    assert spent_on_cut_off(path).cost == pytest.approx(3 * most)
    assert spent_on_cut_off(path).tokens == 3 * (120 + BUDGET)
    with using(ceiling), ceiling.recorded_in(path):
        asyncio.run(ask(Payer.making(3, announced), prompt_of(100)))
    assert len(path.read_text().splitlines()) == 3  # ended ones are gone, those that were cut off stay
    path.write_text(path.read_text() + '{"id": "x", "cost": 1.0, "to')  # a crash within a line
    assert spent_on_cut_off(path).tokens == 3 * (120 + BUDGET)
    path.write_text(json.dumps({"id": "x", "cost": -5, "tokens": 7}) + "\n")
    assert spent_on_cut_off(path).cost == 0  # a stranger's file earns nothing
    path.write_text('{"id": "x", "cost": NaN}\n')
    with pytest.raises(UsageError):
        spent_on_cut_off(path)


def test_a_prompt_in_a_batch_that_was_left_is_paid_once(tmp_path: Path) -> None:
    path = tmp_path / "reservations.jsonl"

    class LeavesFirst(Payer):
        _n: int = PrivateAttr(default=0)

        @property
        def by_batch(self) -> bool:
            return True

        async def generate(self, prompt: RenderedPrompt) -> Completion:
            self._n += 1
            is_first = self._n <= 3
            await asyncio.sleep(0)
            if is_first:
                raise QilinError("submitted; come again")
            usage = Usage(prompt_tokens=50, completion_tokens=10)
            return Completion(text="答", raw="答", model="m", finish_reason="stop", usage=usage)

    most, took = PRICE.of(Usage(prompt_tokens=120, completion_tokens=BUDGET)), 0.05 + 0.04

    async def submit(llm: LLM) -> list[object]:
        return await asyncio.gather(*(ask(llm, prompt_of(100)) for _ in range(3)), return_exceptions=True)

    ceiling, llm = SpendingCeiling(Amount(3.5 * most, "USD"), None), LeavesFirst()
    with using(ceiling):
        with ceiling.recorded_in(path):
            asyncio.run(submit(llm))
        assert ceiling.spent.cost == pytest.approx(3 * most)  # the same prompt three times, each in the batch
        with pytest.raises(CeilingError), ceiling.recorded_in(path):
            asyncio.run(ask(llm, prompt_of(99)))
    again = SpendingCeiling(Amount(3.5 * most, "USD"), None, SpentBefore(spent_on_cut_off(path)))
    assert again.spent.cost == pytest.approx(3 * most)
    with using(again), again.recorded_in(path):
        replies = asyncio.run(submit(llm))
        assert all(isinstance(reply, Completion) for reply in replies)
    assert again.spent.cost == pytest.approx(3 * took)
    assert not path.exists()


def test_no_reservation_stays_of_calls_that_ended(tmp_path: Path) -> None:
    path = tmp_path / "reservations.jsonl"
    ceiling = SpendingCeiling(None, 10_000)
    with ceiling.recorded_in(path):
        ask_about(ceiling, Payer.making(1, announced), 20, 4, random.Random(1))
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("5", Amount(5)),
        ("5USD", Amount(5, "USD")),
        ("0.5 cny", Amount(0.5, "CNY")),
        (" .25 ", Amount(0.25)),
        (3, Amount(3)),
        (0.1, Amount(0.1)),
    ],
)
def test_amounts(written: object, amount: Amount) -> None:
    assert read_amount(written) == amount


@pytest.mark.parametrize(
    "written",
    ["0", "-1", "nan", "inf", "1e3", "USD", "5 dollars", "$5", "", "5USDX", True, -1, float("nan"), [5], "１２"],
)
def test_what_is_no_amount(written: object) -> None:
    if written == "１２":
        assert read_amount(written) == Amount(12)  # digits of another script are digits
        return
    with pytest.raises(ValueError, match="above 0"):
        read_amount(written)


def test_suggested_ceilings_have_two_digits() -> None:
    assert [round_up(amount) for amount in (0.0611, 0.06, 1234, 99.1, 0)] == [0.062, 0.06, 1300, 100, 0]
