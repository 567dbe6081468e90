"""Stop calls before they pass a ceiling of money or tokens: each reserves the most it can take, and then pays.

`using` sets the ceiling of a block, and every call of an LLM in it goes through `ask`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

from qilin_rag.core.errors import CeilingError
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.text import estimate_tokens
from qilin_rag.core.types import Completion, RenderedPrompt, Usage
from qilin_rag.core.units import Amount
from qilin_rag.llms.base import LLM, LLMError
from qilin_rag.llms.image_tokens import tokens_of
from qilin_rag.llms.replies import FILTER_SAID, FILTERED
from qilin_rag.llms.reservations import Reservations, cut_off_in
from qilin_rag.llms.spending import (
    NOTHING,
    UNSPENT,
    SpentAmount,
    SpentBefore,
    excess_of,
    most_spent_on,
    spent_on,
    spent_on_reply,
)

_DOUBT = 3.0
_REACHED = "the next call would pass the ceiling"


class SpendingCeiling:
    """The most that calls may cost or take in tokens, together with what was spent before.

    A call begins if everything fits below the ceiling: what was spent, what the calls under way have reserved, and the
    most that it can take. A call that does not fit waits until others have ended, which mostly take less than they
    reserved. If none is under way, it raises a `CeilingError`, and no call begins after that.

    Reservations are estimates, and a server may write more than it was asked for. So all are multiplied by the largest
    excess that was seen. Until many replies were seen, calls at the same time are multiplied by more: 1 + 3 / (1 + n)
    after n replies. A call alone is not, so that at most one call passes the ceiling; nor are calls by batch, which
    would take two batches.

    Args:
        cost: The most money, if it is limited.
        tokens: The most tokens of prompts and answers, if they are limited.
        before: What was spent before.

    Attributes:
        is_reached: Whether a call did not fit.
        refused: The most that this call would have taken.
        while_waiting: Makes the context in which a call waits for others, so that nobody waits for this call.
    """

    def __init__(self, cost: Amount | None, tokens: int | None, before: SpentBefore = UNSPENT) -> None:
        self.cost, self.tokens = cost, tokens
        self.spent = before.spent
        self.is_reached = False
        self.refused = NOTHING
        self._most = SpentAmount(math.inf if cost is None else cost.value, math.inf if tokens is None else tokens)
        self._reserved = NOTHING
        self._n_under_way = self._n_unbounded = 0
        self._excess, self._n_replies = before.excess, before.n_replies
        self._longest: dict[int, int] = {}  # by the id of an LLM whose answers have no bound
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._reservations: Reservations | None = None
        self._carried: dict[str, dict[str, SpentAmount]] = {}  # reservations of prompts in batches that were left
        self.while_waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    @contextmanager
    def recorded_in(self, path: Path) -> Iterator[None]:
        """Record reservations in a file meanwhile, so that calls under way at a crash count as spent afterwards."""
        before, self._reservations = self._reservations, Reservations(path)
        for each in cut_off_in(path):
            if prompt_key := each.id.rpartition("/")[0]:
                amount = SpentAmount(max(0.0, each.cost), each.tokens)
                self._carried.setdefault(prompt_key, {})[each.id] = amount
        try:
            yield
        finally:
            self._reservations.close()
            self._reservations = before

    def reconsider(self) -> None:
        """Let calls begin again if they fit, after others have turned out to take less than they reserved."""
        self.is_reached = False

    async def ask(self, llm: LLM, prompt: RenderedPrompt) -> Completion:
        """Return the LLM's answer.

        Raises:
            CeilingError: if the call does not fit below the ceiling; it was not made.
        """
        by_batch = llm.by_batch
        most = self._most_tokens(llm, prompt)
        need = most_spent_on(most, llm.price, by_batch)
        prompt_key = self._key_of(prompt) if by_batch else ""
        with self._taken_back(prompt_key) as is_submitted:
            if is_submitted:
                self._reserve(need)
            else:
                await self._begin(need, by_batch)
            try:
                key = None if self._reservations is None else self._reservations.begin(need, prompt_key)
            except BaseException:
                self._end(need, NOTHING)
                raise
        took: SpentAmount | None = None  # a call that is cut off may have been made
        try:
            completion = await llm.generate(prompt)
            took = self._pay(llm, completion, most, need, by_batch)
            return completion
        except LLMError as error:
            took = spent_on(error.discarded, llm.price)
            raise
        except Exception:
            took = None if by_batch else NOTHING
            raise
        finally:
            if took is None and by_batch:
                self._carried.setdefault(prompt_key, {})[key or ""] = need
            elif took is not None and key is not None and self._reservations is not None:
                self._reservations.end(key)
            self._end(need, need if took is None else took)

    def _key_of(self, prompt: RenderedPrompt) -> str:
        """Return the key of a prompt among those whose reservations are in the same file."""
        at = "" if self._reservations is None else str(self._reservations.path.absolute())
        return json_hash([at, prompt.messages], sort_keys=False, ensure_ascii=False)

    @contextmanager
    def _taken_back(self, prompt_key: str) -> Iterator[bool]:
        """Take back what the same prompt has reserved before it was cut off, if it is in a batch: it is paid once.

        Yields whether there is such a prompt.
        """
        before = self._carried.get(prompt_key)
        if not before:
            yield False
            return
        key, amount = before.popitem()
        self.spent = self.spent.minus(amount)
        try:
            yield True
        except BaseException:
            before[key] = amount
            self.spent = self.spent.plus(amount)
            raise
        if key and self._reservations is not None:
            self._reservations.end(key)

    def _most_tokens(self, llm: LLM, prompt: RenderedPrompt) -> Usage:
        """Return the most tokens of a call, as far as they are known beforehand."""
        n_prompt = sum(estimate_tokens(message["content"]) for message in prompt.messages)
        n_prompt += sum(tokens_of(llm.image_rule, image) for image in prompt.images)
        n_answer = llm.answer_budget
        n_answer = self._longest.get(id(llm)) if n_answer is None else n_answer
        return Usage(prompt_tokens=n_prompt, completion_tokens=n_answer)

    def _pay(self, llm: LLM, completion: Completion, most: Usage, need: SpentAmount, by_batch: bool) -> SpentAmount:
        """Return what a reply took, and learn from it."""
        if completion.finish_reason == FILTERED and (completion.why_empty or "").startswith(FILTER_SAID):
            return spent_on(completion.discarded, llm.price)  # a filter refused the prompt unread
        usage = completion.usage
        is_short = 3 * (usage.prompt_tokens or 0) < (most.prompt_tokens or 0)
        took = spent_on_reply(usage, most, llm.price, completion.batch or by_batch, is_short)
        if usage.prompt_tokens is not None and usage.completion_tokens is not None:
            self._n_replies += 1
            if llm.answer_budget is None:
                self._longest[id(llm)] = max(self._longest.get(id(llm), 0), usage.completion_tokens)
            self._excess = max(self._excess, excess_of(took, need))
        else:
            took = took.times(self._excess)
        return took.plus(spent_on(completion.discarded, llm.price))

    def _fits(self, need: SpentAmount, by_batch: bool) -> bool:
        is_alone = not self._n_under_way
        if self._n_unbounded or (not need.is_bounded and not is_alone):
            return False
        doubt = 0.0 if is_alone or by_batch else _DOUBT / (1 + self._n_replies)
        total = self.spent.plus(self._reserved.plus(need).times(max(self._excess, 1.0 + doubt)))
        return total.cost <= self._most.cost * (1 + 1e-9) and total.tokens <= self._most.tokens

    async def _begin(self, need: SpentAmount, by_batch: bool) -> None:
        """Reserve, and wait for it if others are under way."""
        is_again = False
        while self.is_reached or not self._fits(need, by_batch):
            if self.is_reached or not self._n_under_way:
                self.is_reached, self.refused = True, need
                self._wake()  # the others that wait stop, too
                raise CeilingError(_REACHED)
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if is_again:
                self._waiting.appendleft(waiter)
            else:
                self._waiting.append(waiter)
            try:
                with self.while_waiting():
                    await waiter
            except asyncio.CancelledError:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                else:
                    self._wake()
                raise
            is_again = True
        self._reserve(need)

    def _reserve(self, need: SpentAmount) -> None:
        self._n_under_way += 1
        self._n_unbounded += not need.is_bounded
        self._reserved = self._reserved.plus(need)
        self._wake()  # there may be room for one more

    def _end(self, need: SpentAmount, took: SpentAmount) -> None:
        self._n_under_way -= 1
        self._n_unbounded -= not need.is_bounded
        self._reserved = self._reserved.minus(need) if self._n_under_way else NOTHING
        self.spent = self.spent.plus(took)
        self._wake()

    def _wake(self) -> None:
        """Let the first call that waits look again."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


_current: ContextVar[SpendingCeiling | None] = ContextVar("ceiling", default=None)


@contextmanager
def using(ceiling: SpendingCeiling | None) -> Iterator[None]:
    """Set the ceiling of all calls in the block."""
    token = _current.set(ceiling)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> SpendingCeiling | None:
    """Return the current ceiling; None if there is none."""
    return _current.get()


@contextmanager
def waiting_as(context: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Let calls that wait for the current ceiling wait in such a context; see `SpendingCeiling.while_waiting`."""
    if (ceiling := current()) is None:
        yield
        return
    before, ceiling.while_waiting = ceiling.while_waiting, context
    try:
        yield
    finally:
        ceiling.while_waiting = before


def error_of_ceiling() -> CeilingError | None:
    """Return the error of any further call if the current ceiling is reached; None if calls may begin."""
    ceiling = current()
    return CeilingError(_REACHED) if ceiling is not None and ceiling.is_reached else None


def recorded_in(path: Path) -> AbstractContextManager[None]:
    """Record the reservations of the current ceiling, if there is one, in a file (`SpendingCeiling.recorded_in`)."""
    ceiling = current()
    return nullcontext() if ceiling is None else ceiling.recorded_in(path)


async def ask(llm: LLM, prompt: RenderedPrompt) -> Completion:
    """Return the LLM's answer; wait and stop as the current ceiling says, if there is one."""
    ceiling = current()
    if ceiling is None or not llm.takes_tokens:
        return await llm.generate(prompt)
    return await ceiling.ask(llm, prompt)
