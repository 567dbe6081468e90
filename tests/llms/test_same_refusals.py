"""Refusals that are all alike end a run, but not while a slow reply may still come."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qilin_rag.core.errors import QilinError
from qilin_rag.core.types import Sample
from qilin_rag.llms.same_refusals import SAME_REFUSALS, SameRefusals


def line(number: int, error: str | None = None) -> Sample:
    answer = "" if error else "水温92度"
    return Sample(
        question_id=str(number),
        query="怎么做",
        status="failed" if error else "ok",
        error=error,
        answer=answer,
        raw=answer,
        messages=[],
        hits=[],
        notes_given=0,
        notes_used=0,
    )


async def refused(same: SameRefusals, n: int) -> None:
    for number in range(n):
        same.end(line(number, f"no images (request {number})"), is_refused=True)


@pytest.mark.parametrize("n_slow", [1, 5])
def test_calls_under_way_are_waited_for(tmp_path: Path, n_slow: int) -> None:
    async def go() -> None:
        same = SameRefusals(tmp_path / "samples.jsonl")
        for _ in range(SAME_REFUSALS + n_slow):
            await same.begin()
        await refused(same, SAME_REFUSALS)
        waiting = asyncio.create_task(same.begin())
        await asyncio.sleep(0)
        assert not waiting.done()
        same.end(line(99), is_refused=False)
        await asyncio.wait_for(waiting, 1)
        await refused(same, n_slow - 1)

    asyncio.run(go())


def test_without_a_reply_the_last_one_under_way_ends_it(tmp_path: Path) -> None:
    async def go() -> None:
        same = SameRefusals(tmp_path / "samples.jsonl")
        for _ in range(SAME_REFUSALS + 1):
            await same.begin()
        await refused(same, SAME_REFUSALS)
        with pytest.raises(QilinError, match=r"9 failed for one reason: no images \(request 7\)"):
            await refused(same, 1)

    asyncio.run(go())
