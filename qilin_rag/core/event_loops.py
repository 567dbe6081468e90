"""Run coroutines from code that is not asynchronous, also in a notebook, and many of them at a time."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return the result of a coroutine, run in a thread of its own if an event loop is already running (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    results: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work()))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return results[0]


async def for_each(
    jobs: Iterable[T],
    work: Callable[[T], Awaitable[None]],
    concurrency: int,
    ended: Callable[[], None] = lambda: None,
) -> None:
    """Do the work of all jobs, `concurrency` of them at a time; the first error cancels those in progress.

    Args:
        jobs: A job is taken from them when its turn comes.
        work: What keeps its own results, so that an error loses none of them.
        concurrency: The most jobs at a time.
        ended: A function that is called by each of so many workers when there is no further job for it.

    Raises:
        Exception: The first error of a job.
    """
    queue = iter(jobs)

    async def worker() -> None:
        for job in queue:
            await work(job)
            await asyncio.sleep(0)  # work that never waits must not keep Ctrl-C waiting either
        ended()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
