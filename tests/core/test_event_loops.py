"""Work of many jobs at a time: never more than allowed, in turn, and over at the first error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from qilin_rag.core.event_loops import for_each, run_async


def test_all_jobs_are_done_at_most_so_many_at_a_time() -> None:
    done: list[int] = []
    now = most = taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        while taken < 9:
            taken += 1
            yield taken

    async def work(job: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        assert taken <= len(done) + 3  # a job is taken when its turn comes
        await asyncio.sleep(0.001 * (job % 3))
        now -= 1
        done.append(job)

    run_async(lambda: for_each(jobs(), work, 3))
    assert (sorted(done), most) == (list(range(1, 10)), 3)


def test_the_first_error_cancels_the_others_and_is_raised_as_it_is() -> None:
    kept: list[int] = []
    cancelled: list[int] = []

    async def work(job: int) -> None:
        if job == 3:
            raise LookupError("third")
        try:
            await asyncio.sleep(0 if job < 3 else 60)
        except asyncio.CancelledError:
            cancelled.append(job)
            raise
        kept.append(job)

    with pytest.raises(LookupError, match="third"):
        run_async(lambda: for_each(range(1, 100), work, 2))
    assert kept == [1, 2] and len(cancelled) <= 1


def test_no_job_is_no_work() -> None:
    async def work(job: int) -> None:
        raise AssertionError

    run_async(lambda: for_each([], work, 5))
