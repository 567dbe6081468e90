"""Take one batch through the steps at its service: submit it, wait for its end, fetch its replies.

Each step can be repeated after a crash. Calls that fail for a time are made again, and a batch whose creation was not
answered is looked up before it is created again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from qilin_rag.core.progress import stage
from qilin_rag.core.text import counted
from qilin_rag.core.units import format_seconds
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.batch.ledger import LedgerEntry
from qilin_rag.llms.batch.replies import Replies
from qilin_rag.llms.batch.service import BatchService, BatchState, NoBatchError, SubmittedError, UnsureError
from qilin_rag.llms.retry import TransientError, with_retries

logger = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_POLL_S, GROWTH = 1.0, 1.4
LOOKS_S = (0.0, 2.0, 6.0)
"""The waits before a new batch is looked for; a list of batches may be some seconds behind."""
_OLD_S = 300.0  # a batch of this age is in the list
SILENCE_S = 3600.0
"""The longest time without a word of the service about a batch, or about its files."""
UNKNOWN_S = 60.0
"""The longest time that a service may not know a batch that it has just created."""
_TELL_EVERY_S = 600.0
_MOST_TRIES = 10
_MOST_CREATED = 5
_N_SHORT = 3


class Steps:
    """The steps of batches at one service."""

    def __init__(self, service: BatchService) -> None:
        """Set the service."""
        self.service = service
        self._rng = random.Random()

    async def submit(self, entry: LedgerEntry) -> None:
        """Upload the requests and create the batch; each id is on disk before the next call.

        Raises:
            TooLargeError: if the file is too large.
            OverQuotaError: if the service has too much enqueued.
            FatalLLMError: if it can't be submitted.
        """
        tag = entry.record.tag
        if entry.record.file_id is None:
            file_id = await self._repeated(lambda: self.service.upload(entry.requests, tag), "uploading the requests")
            entry.update(file_id=file_id)
        for _ in range(_MOST_CREATED):
            try:
                batch_id = await self._repeated(
                    lambda: self.service.create(entry.record.file_id, entry.requests, tag), "creating a batch"
                )
            except UnsureError as error:
                logger.warning("no answer when a batch was created (%s); looking whether it exists", error)
                found = await self.find(entry)
                if found is None:
                    continue
                batch_id = found
            entry.update(batch_id=batch_id, state="submitted")
            logger.info("batch %s is submitted: %s", batch_id, counted(entry.record.requests, "request"))
            return
        raise FatalLLMError(f"{entry.record.base_url} has not created a batch in {_MOST_CREATED} tries")

    async def find(self, entry: LedgerEntry) -> str | None:
        """Return the id of a batch that was perhaps created; None if it was not."""

        async def look() -> str | None:
            return await self.service.find(entry.record.tag, entry.record.file_id)

        age_s = (datetime.now(UTC) - datetime.fromisoformat(entry.record.created)).total_seconds()
        for wait_s in LOOKS_S[:1] if age_s > _OLD_S else LOOKS_S:
            await asyncio.sleep(wait_s)
            if found := await self._repeated(look, "listing batches"):
                return found
        return None

    async def look(self, entry: LedgerEntry) -> BatchState:
        """Return how a batch has ended.

        Raises:
            SubmittedError: if it has not, as far as is known.
        """
        with suppress(TransientError, NoBatchError):
            state = await self.service.state(entry.record.batch_id or "")
            if state.status != "open":
                return state
        raise SubmittedError(f"batch {entry.record.batch_id} is submitted")

    async def wait(self, entry: LedgerEntry) -> BatchState:
        """Poll until the batch has ended; return how."""
        batch_id = entry.record.batch_id or ""
        begun = told = time.monotonic()
        n_before, said = 0, None
        with stage(f"batch {batch_id}", entry.record.requests) as advance:
            async for state in self._states(entry):
                advance(max(0, state.n_done + state.n_failed - n_before))
                n_before = max(n_before, state.n_done + state.n_failed)
                if state.said != said or time.monotonic() - told > _TELL_EVERY_S:
                    said, told = state.said, time.monotonic()
                    counts = f"{state.n_done} of {entry.record.requests} done, {state.n_failed} refused"
                    logger.info(
                        "batch %s: %s, %s, after %s", batch_id, said, counts, format_seconds(time.monotonic() - begun)
                    )
                    entry.update(said=said, done=state.n_done, failed=state.n_failed)
                if state.status != "open":
                    return state
        raise AssertionError("the states have an end")

    async def fetch(self, entry: LedgerEntry, state: BatchState) -> Replies:
        """Download the replies of a batch that has ended; they are on disk when this returns."""
        n_expected = min(state.n_done + state.n_failed, entry.record.requests)
        deadline, wait_s, n_short = time.monotonic() + SILENCE_S, FIRST_POLL_S, 0
        while True:
            try:
                await self.service.download(state, entry.folder)
                replies = Replies.of(entry, self.service)
                if len(replies) >= n_expected or n_short == _N_SHORT:
                    break
                n_short += 1
                reason, asked_s = f"{len(replies)} of {n_expected} replies are in its files", 0.0
            except TransientError as error:
                reason, asked_s = str(error), error.retry_after_s or 0.0
            if time.monotonic() > deadline:
                raise FatalLLMError(
                    f"the replies of batch {entry.record.batch_id} can't be fetched ({reason}); "
                    "the same command tries again"
                )
            logger.debug("batch %s: %s", entry.record.batch_id, reason)
            await asyncio.sleep(max(asked_s, self._jittered(wait_s)))
            wait_s = min(wait_s * GROWTH, self.service.longest_poll_s)
        ended = {"said": state.said, "ended": state.status, "done": state.n_done, "failed": state.n_failed}
        entry.update(state="fetched", **ended)
        for line in replies.remarks():
            logger.warning("batch %s: %s", entry.record.batch_id, line)
        return replies

    async def _states(self, entry: LedgerEntry) -> AsyncIterator[BatchState]:
        """Yield the state of a batch again and again, at growing intervals."""
        batch_id = entry.record.batch_id or ""
        wait_s, heard, begun = FIRST_POLL_S, time.monotonic(), time.monotonic()
        while True:
            asked_s = 0.0
            try:
                state = await self.service.state(batch_id)
                heard = time.monotonic()
                yield state
            except TransientError as error:
                asked_s = error.retry_after_s or 0.0
                if time.monotonic() - heard > SILENCE_S:
                    raise FatalLLMError(
                        f"nothing was heard of batch {batch_id} for {format_seconds(SILENCE_S)} ({error}); it stays "
                        "at the service, and the same command waits for it again"
                    ) from error
                logger.debug("batch %s: %s", batch_id, error)
            except NoBatchError as error:
                if time.monotonic() - begun > UNKNOWN_S:
                    raise FatalLLMError(
                        f"{entry.record.base_url} knows no batch {batch_id} ({error}); to submit its requests again, "
                        f"remove the folder {entry.folder}"
                    ) from error
            await asyncio.sleep(max(asked_s, self._jittered(wait_s)))
            wait_s = min(wait_s * GROWTH, self.service.longest_poll_s)

    async def _repeated(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        """Return the result of a call, which is repeated if that can help."""
        try:
            return await with_retries(call, _MOST_TRIES, self._rng)
        except TransientError as error:
            raise FatalLLMError(f"{what} failed {_MOST_TRIES} times ({error}); the same command tries again") from error

    def _jittered(self, wait_s: float) -> float:
        return wait_s * self._rng.uniform(0.8, 1.2)
