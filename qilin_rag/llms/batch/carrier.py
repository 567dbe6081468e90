"""Carry requests to a service in batches, and the replies back to those who wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qilin_rag.core.errors import QilinError
from qilin_rag.core.text import counted
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.batch.ledger import Ledger, LedgerEntry
from qilin_rag.llms.batch.replies import Replies
from qilin_rag.llms.batch.service import (
    BatchReply,
    BatchService,
    BatchState,
    OverQuotaError,
    SubmittedError,
    TooLargeError,
)
from qilin_rag.llms.batch.steps import Steps
from qilin_rag.llms.retry import TransientError

logger = logging.getLogger(__name__)
QUOTA_WAIT_S = 60.0
"""How long to wait if the service has too much enqueued, and none of it is ours."""
_N_AT_ONCE = 32  # replies that are given before their jobs have a turn


class BatchRequest:
    """A request that waits for its reply."""

    def __init__(self, key: str, body: Mapping[str, Any], n_bytes: int, resume: Callable[[], None]) -> None:
        """Set a request; `resume` is called when it gets its reply."""
        self.key, self.body, self.n_bytes = key, body, n_bytes
        self.custom_id = ""
        self.future: asyncio.Future[tuple[OpenBatch, BatchReply]] = asyncio.get_running_loop().create_future()
        self._resume = resume

    def give(self, batch: OpenBatch, reply: BatchReply | None) -> None:
        """Give the reply; none lets the request be made again."""
        if self.future.done():
            return
        self._resume()
        if reply is None or reply.status is None:
            self.future.set_exception(TransientError(f"batch {batch.entry.record.batch_id} has no reply to it"))
        else:
            self.future.set_result((batch, reply))

    def fail(self, error: BaseException) -> None:
        """Raise an error in place of a reply."""
        if not self.future.done():
            self._resume()
            self.future.set_exception(error)


class OpenBatch:
    """A batch of the ledger in this session: the requests that wait for it, or the replies that it gave."""

    def __init__(self, entry: LedgerEntry, replies: Replies | None = None) -> None:
        """Begin with nobody who waits."""
        self.entry, self.replies = entry, replies
        self.waiting: dict[str, BatchRequest] = {}
        self.used: set[str] = set()
        self.unasked: set[str] = set()
        self.is_followed = False
        self.has_ended = asyncio.Event()

    @property
    def is_under_way(self) -> bool:
        """Return whether this session waits for its end."""
        return self.is_followed and not self.has_ended.is_set()


class Carrier:
    """The batches of one ledger at one service."""

    def __init__(self, service: BatchService, ledger: Ledger, facts: Mapping[str, str], waits: bool = True) -> None:
        """Set the service, what each record says of it, and whether to wait for batches that have not ended."""
        self._waits = waits
        self.service, self.steps = service, Steps(service)
        self.batches: list[OpenBatch] = []
        self.most_bytes = service.limits.bytes
        self._ledger, self._facts = ledger, facts

    async def send(self, requests: Sequence[BatchRequest]) -> None:
        """Submit requests as a batch, wait for its end, and give the replies; in parts if the service wants that."""
        ordinals: Counter[str] = Counter()
        for request in requests:
            request.custom_id = f"{request.key}-{ordinals[request.key]}"
            ordinals[request.key] += 1
        lines = (self.service.write_line(each.custom_id, each.body) for each in requests)
        batch = OpenBatch(self._ledger.add(lines, **self._facts))
        batch.waiting = {request.custom_id: request for request in requests}
        self.batches.append(batch)
        try:
            await self.steps.submit(batch.entry)
        except (TooLargeError, OverQuotaError) as error:
            self.batches.remove(batch)
            batch.entry.discard()
            await self._send_again(requests, error)
            return
        await self.follow(batch)

    async def _send_again(self, requests: Sequence[BatchRequest], error: Exception) -> None:
        """Submit requests that were refused together: later if our batches hold the quota, else in two parts."""
        is_quota = isinstance(error, OverQuotaError)
        if is_quota and not self._waits:
            raise SubmittedError(str(error))
        ours = [batch for batch in self.batches if batch.is_under_way] if is_quota else []
        what = "has too much enqueued" if is_quota else "takes no file of this size"
        when = "when another batch has ended" if ours else "in two parts"
        at = self._facts["base_url"]
        logger.warning("%s %s (%s): %s are submitted %s", at, what, error, counted(len(requests), "request"), when)
        if ours:
            await _first_end(ours)
            await self.send(requests)
            return
        if len(requests) == 1:
            raise FatalLLMError(
                f"{at} {what} ({error}), even for one request; what was answered is kept, and the same command asks "
                "the rest"
            )
        half = (len(requests) + 1) // 2
        parts = (requests[:half], requests[half:])
        if not is_quota:
            self.most_bytes = min(self.most_bytes, max(sum(each.n_bytes for each in part) for part in parts))
            await _both(self.send(parts[0]), self.send(parts[1]))
            return
        await asyncio.sleep(QUOTA_WAIT_S)
        for part in parts:
            await self.send(part)

    async def follow(self, batch: OpenBatch) -> None:
        """Wait for the end of a batch, and give the replies to those who wait."""
        batch.is_followed = True
        try:
            state = await (self.steps.wait(batch.entry) if self._waits else self.steps.look(batch.entry))
            if state.status != "failed":
                batch.replies = await self.steps.fetch(batch.entry, state)
        finally:
            batch.has_ended.set()
        if state.status == "failed":
            await self._after_failure(batch, state)
        else:
            await self._give_all(batch, state)

    async def _after_failure(self, batch: OpenBatch, state: BatchState) -> None:
        batch.entry.update(state="closed", ended="failed", said=state.said)
        self.batches.remove(batch)
        if not state.is_over_quota:
            record = batch.entry.record
            raise FatalLLMError(
                f"{record.base_url} has refused batch {record.batch_id}: {state.reason}; its requests: "
                f"{batch.entry.requests}"
            )
        if batch.waiting:
            await self._send_again(list(batch.waiting.values()), OverQuotaError(state.reason))

    async def _give_all(self, batch: OpenBatch, state: BatchState) -> None:
        """Give the replies, then let the others ask again, or stop the run if somebody wants no replies to them."""
        replies = batch.replies
        assert replies is not None
        unanswered = {id: request for id, request in batch.waiting.items() if id not in replies}
        answered = [request for id, request in batch.waiting.items() if id in replies]
        batch.waiting = unanswered
        for number, request in enumerate(answered, start=1):
            request.give(batch, replies.get(request.custom_id))
            if number % _N_AT_ONCE == 0:
                await asyncio.sleep(0)
        if not unanswered:
            return
        id, n_left = batch.entry.record.batch_id, counted(len(unanswered), "request")
        if state.status == "cancelled":
            raise QilinError(
                f"batch {id} was cancelled at the service; what it answered is kept, and the same command submits the "
                f"rest ({n_left})"
            )
        if state.status == "expired" and not len(replies):
            raise QilinError(f"batch {id} has expired without a reply; the same command submits its requests again")
        logger.warning("batch %s is %s without a reply to %s, asked again now", id, state.said, n_left)
        for request in unanswered.values():
            request.give(batch, None)
        batch.waiting = {}


async def _first_end(batches: Sequence[OpenBatch]) -> None:
    """Wait until one of these batches has ended."""
    ends = [asyncio.ensure_future(batch.has_ended.wait()) for batch in batches]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()


async def _both(*works: Any) -> None:
    """Do some works together; the first error is raised when all have ended."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
