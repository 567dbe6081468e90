"""Collect the requests of many jobs into batches, and give each job the reply to its own.

Jobs run as if they asked one by one; each waits for its reply. A batch is submitted when all workers wait, or when it
is full. A request that an earlier session of the same run submitted gets its reply from that batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.file_hashes import file_sha256
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.text import counted
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.batch.attendance import Attendance
from qilin_rag.llms.batch.carrier import BatchRequest, Carrier, OpenBatch
from qilin_rag.llms.batch.ledger import Ledger, LedgerEntry
from qilin_rag.llms.batch.replies import Replies
from qilin_rag.llms.batch.service import BatchService, SubmittedError
from qilin_rag.llms.client import RefusedError

logger = logging.getLogger(__name__)
MOST_REQUESTS = 10_000
"""The most requests of a batch, and jobs that wait at a time, whatever more a service takes: they are in memory."""
IDLE_S = 60.0
"""How long to wait for more requests if some worker waits for something that is not known here."""
_HASH_DIGITS = 32


class CollectedJob:
    """A job under way: the replies that it got."""

    def __init__(self) -> None:
        """Begin without a reply."""
        self.taken: list[tuple[OpenBatch, str]] = []
        self.is_preparing = True

    def mark(self, end: int) -> None:
        """Note the replies as used as soon as the run's file has `end` bytes; call it before this write."""
        ids_of: dict[OpenBatch, list[str]] = {}
        for batch, custom_id in self.taken:
            ids_of.setdefault(batch, []).append(custom_id)
        for batch, custom_ids in ids_of.items():
            batch.entry.mark_used(custom_ids, end)
            batch.used.update(custom_ids)


_job: ContextVar[CollectedJob | None] = ContextVar("job", default=None)


class Collector:
    """The batches of one run and file, for one event loop. Use it as an asynchronous context."""

    def __init__(
        self,
        service: BatchService,
        path: Path,
        *,
        base_url: str,
        model: str,
        n_jobs: int,
        waits: bool = True,
    ) -> None:
        """Set up without a step at the service.

        Args:
            service: The service.
            path: The file that gets the replies, in the locked directory of a run, open for writing.
            base_url: The address of the LLM.
            model: Its name there.
            n_jobs: The most jobs that there are.
            waits: Whether to wait for batches that have not ended; else a job raises a SubmittedError when all
                batches are submitted.
        """
        self._most_requests = min(service.limits.requests, MOST_REQUESTS)
        self.n_workers = max(1, min(n_jobs, self._most_requests))
        """The number of workers to do jobs by; each calls `worker_ended` when it finds no further job."""
        self._service, self._ledger, self._file = service, Ledger(path.parent), path
        self._facts = {"service": service.name, "base_url": base_url, "model": model, "file_name": path.name}
        self._carrier = Carrier(service, self._ledger, self._facts, waits)
        self._requests: dict[BatchRequest, None] = {}  # in their order
        self._pending: list[BatchRequest] = []
        self._n_pending_bytes = 0
        self._known: dict[str, deque[tuple[OpenBatch, str]]] = defaultdict(deque)
        self._tasks: set[asyncio.Task[None]] = set()
        self._n_working = 0
        self._stop: QilinError | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Read the ledger, and look up batches that an earlier session may have created."""
        self._loop = asyncio.get_running_loop()
        self._attendance = Attendance(self.n_workers, self._act)
        self._ledger.remove_leftovers()
        try:
            for entry in self._ledger.entries():
                await self._resume(entry)
        except BaseException:
            await self._service.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close the connections; say what is left at the service, or was not asked for."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        outlives = self._service.outlives_command
        for batch in (each for each in self._carrier.batches if outlives or each.replies is not None):
            with suppress(QilinError):
                _settle(batch, is_done=kind is None, is_known=kind is not None and issubclass(kind, SubmittedError))
        with suppress(Exception):
            await self._service.close()

    @asynccontextmanager
    async def job(self) -> AsyncIterator[CollectedJob]:
        """Wait until there is room for one more job, and do it in this context."""
        await self._attendance.take_place()
        job = CollectedJob()
        token = _job.set(job)
        try:
            yield job
        finally:
            _job.reset(token)
            self._leave_place(job)

    def _leave_place(self, job: CollectedJob | None) -> None:
        if job is not None and job.is_preparing:
            job.is_preparing = False
            self._attendance.leave_place()

    def standing_by(self) -> AbstractContextManager[None]:
        """Tell that a worker waits for what other jobs have to do first, so that no batch waits for this worker."""
        return self._attendance.waiting()

    def worker_ended(self) -> None:
        """Tell that a worker has found no further job."""
        self._attendance.end()

    async def post(self, body: Mapping[str, Any]) -> Any:
        """Return the body of the reply to a request, which a batch answers.

        Args:
            body: The request; its fields of streaming are left out.

        Raises:
            RefusedError: if the service refuses the request.
            TransientError: if the batch ended without a reply to it.
            FatalLLMError: if no batch can be answered.
        """
        body = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        key = json_hash(body, sort_keys=True, ensure_ascii=False)[:_HASH_DIGITS]
        n_bytes = len(self._service.write_line(f"{key}-00000", body).encode()) + 1
        request = BatchRequest(key, body, n_bytes, self._attendance.resume)
        job = _job.get()
        self._requests[request] = None
        self._attendance.hold(n_bytes)
        self._leave_place(job)
        try:
            self._enqueue(request)
            batch, reply = await request.future
        except asyncio.CancelledError:
            if request.future.cancelled():
                self._attendance.resume()
            raise
        finally:
            del self._requests[request]
            self._attendance.hold(-n_bytes)
        if job is not None:
            job.taken.append((batch, reply.custom_id))
        if reply.status == 200:
            return reply.body
        raise RefusedError(reply.status or 0, {}, reply.body)

    def _enqueue(self, request: BatchRequest) -> None:
        """Find the reply to a request in a batch, or put it into the next one."""
        self._attendance.wait()
        if known := self._known.get(request.key):
            batch, request.custom_id = known.popleft()
            batch.unasked.discard(request.custom_id)
            if batch.replies is not None:
                request.give(batch, batch.replies.get(request.custom_id))
                return
            batch.waiting[request.custom_id] = request
            if not batch.is_followed:
                batch.is_followed = True
                self._start(self._carrier.follow(batch))
            return
        is_full = len(self._pending) >= self._most_requests
        if self._pending and (is_full or self._n_pending_bytes + request.n_bytes > self._carrier.most_bytes):
            self._flush()
        self._pending.append(request)
        self._n_pending_bytes += request.n_bytes
        self._act_later()

    def _act_later(self) -> None:
        """Act after some time even if a worker seems busy."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(IDLE_S, self._act)

    def _act(self) -> None:
        """Submit what has come; after an error, raise it in one of the jobs, which stops all."""
        is_submitted = isinstance(self._stop, SubmittedError)
        if self._stop is None or (is_submitted and self._pending):
            self._flush()
        elif is_submitted and self._n_working:
            return  # until the others are submitted, too
        elif request := next((each for each in self._requests if not each.future.done()), None):
            request.fail(self._stop)

    def _flush(self) -> None:
        if self._pending and (self._stop is None or isinstance(self._stop, SubmittedError)):
            requests, self._pending, self._n_pending_bytes = self._pending, [], 0
            self._start(self._carrier.send(requests))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work beside the jobs; its error stops the run as soon as no job can do more."""

        async def stopping() -> None:
            self._n_working += 1
            try:
                await work
            except QilinError as error:
                self._stop = error if self._stop is None or isinstance(self._stop, SubmittedError) else self._stop
            except Exception as error:
                logger.debug("batches", exc_info=True)
                self._stop = FatalLLMError(f"the batch failed: {type(error).__name__}: {error}")
            finally:
                self._n_working -= 1
            if self._stop is not None:
                self._act_later()
                self._attendance.consider()

        task = self._loop.create_task(stopping())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resume(self, entry: LedgerEntry) -> None:
        """Take up a batch of an earlier session."""
        record = entry.record
        if record.state == "closed" or record.file_name != self._facts["file_name"]:
            return
        if any(getattr(record, name) != value for name, value in self._facts.items()):
            what = (entry.folder, record.model, record.base_url)
            logger.warning("%s is a batch of %s at %s, which this command does not ask; it is left alone", *what)
            return
        if file_sha256(entry.requests) != record.requests_sha256:
            raise UsageError(f"{entry.requests} was changed; move the folder {entry.folder} away")
        if record.batch_id is None:
            found = await self._carrier.steps.find(entry)
            if found is None:  # its requests are in no batch, and come again
                entry.discard()
                return
            logger.info("batch %s is found again", found)
            entry.update(batch_id=found, state="submitted")
        batch = OpenBatch(entry)
        self._carrier.batches.append(batch)
        batch.used = entry.read_used(self._file.stat().st_size)
        if entry.record.state == "fetched":
            batch.replies = Replies.of(entry, self._service)
        for custom_id in entry.read_ids():
            if custom_id not in batch.used and (batch.replies is None or custom_id in batch.replies):
                self._known[custom_id.rpartition("-")[0]].append((batch, custom_id))
                batch.unasked.add(custom_id)


def _settle(batch: OpenBatch, is_done: bool, is_known: bool) -> None:
    """Close a batch of which all replies are used; say what is left of another one, unless that is known."""
    entry, record = batch.entry, batch.entry.record
    directory = entry.folder.parent.parent
    if batch.replies is not None:
        if len(batch.replies) == len(batch.used):
            entry.update(state="closed")
        elif is_done and batch.unasked:
            n_left = counted(len(batch.unasked), "reply", "replies")
            logger.warning("batch %s: this command did not ask for %s in %s", record.batch_id, n_left, entry.folder)
    elif record.batch_id is not None and is_done:
        n_left = counted(len(batch.unasked), "request")
        logger.warning(
            "batch %s is still at the service, and this command did not ask for %s of it; to cancel it: qilin-rag "
            "batch cancel %s",
            record.batch_id,
            n_left,
            directory,
        )
    elif record.batch_id is not None and not is_known:
        logger.warning(
            "batch %s stays at the service: the same command waits for it again, and qilin-rag batch cancel %s "
            "cancels it",
            record.batch_id,
            directory,
        )
