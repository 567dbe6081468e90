from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from qilin_rag.llms.retry import TransientError, backoff_s, parse_retry_after, with_retries


def attempt(outcomes: list[TransientError | str], max_tries: int) -> tuple[str | None, list[float]]:
    """Play the outcomes; the result (None: given up) and the waits in between."""
    waits: list[float] = []
    left = iter(outcomes)

    async def call() -> str:
        outcome = next(left)
        if isinstance(outcome, TransientError):
            raise outcome
        return outcome

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    try:
        return asyncio.run(with_retries(call, max_tries, random.Random(1), sleep)), waits
    except TransientError:
        return None, waits


def test_what_passes_is_tried_again() -> None:
    assert attempt(["a"], 3) == ("a", [])
    result, waits = attempt([TransientError("x"), TransientError("x"), "a"], 3)
    assert result == "a"
    assert len(waits) == 2


def test_it_gives_up_after_max_tries_without_waiting_once_more() -> None:
    result, waits = attempt([TransientError("x")] * 9, 4)
    assert result is None
    assert len(waits) == 3


def test_waits_grow_up_to_a_bound() -> None:
    rng = random.Random(0)
    for failures, longest in ((1, 0.5), (2, 1.0), (4, 4.0), (10, 30.0), (1000, 30.0)):
        drawn = [backoff_s(failures, rng) for _ in range(300)]
        assert 0 <= min(drawn) < max(drawn) <= longest
        assert max(drawn) > 0.9 * longest


def test_the_server_is_waited_for_at_least_as_long_as_it_asks() -> None:
    _, waits = attempt([TransientError("x", retry_after_s=7), "a"], 3)
    assert 7 <= waits[0] <= 7.5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2), ("0.5", 0.5), ("-3", 0), ("99999", 300), (None, None), ("", None), ("soon", None), ("nan", None)],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 17 < (parse_retry_after(later) or 0) <= 20
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
