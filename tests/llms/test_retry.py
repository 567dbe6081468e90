from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from qilin_rag.llms.retry import (
    CountedCalls,
    TransientError,
    asked_wait_s,
    backoff_s,
    parse_retry_after,
    say_wait,
    with_retries,
)


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


@pytest.mark.parametrize(
    ("headers", "words", "seconds"),
    [
        ({"retry-after": "86400"}, "", 86400),
        ({"retry-after-ms": "1500"}, "", 1.5),
        ({"retry-after": "2", "retry-after-ms": "1500"}, "", 2),
        ({"retry-delay": "34s"}, "", 34),
        ({}, "Please try again in 7m12s.", 432),
        ({}, "Please try again in 24h0m0s. Visit https://x/1h", 86400),
        ({}, "Please try again in 20ms", 0.02),
        ({}, "Please retry in 34.07s.", 34.07),
        ({}, "Please retry after 6 seconds", 6),
        ({}, "try again in 1 hour, 5 minutes", 3900),
        ({"retry-after": "1"}, "try again in 2 days", 172800),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"}, "", 360),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "10"}, "", None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, "", None),
        ({"x-ratelimit-reset": "30", "x-ratelimit-remaining": "0"}, "", 30),
        ({"x-ratelimit-reset": "1000000001", "x-ratelimit-remaining": "0"}, "", 0),
        ({"x-ratelimit-reset": "soon", "x-ratelimit-remaining": "0"}, "", None),
        ({"retry-after": "soon"}, "try again later", None),
        ({}, "try again in a moment", None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], words: str, seconds: float | None) -> None:
    assert asked_wait_s(headers, words) == (None if seconds is None else pytest.approx(seconds))


def test_a_limit_that_is_renewed_at_a_time_in_milliseconds() -> None:
    later = datetime.now(UTC) + timedelta(hours=5)
    headers = {"x-ratelimit-reset": f"{later.timestamp() * 1000:.0f}", "x-ratelimit-remaining": "0"}
    assert 4.9 * 3600 < (asked_wait_s(headers) or 0) <= 5 * 3600 + 1


def test_how_long_it_is_and_until_when() -> None:
    assert say_wait(86400).startswith("24 h 0 min, until 20")
    assert say_wait(1e12).startswith("277777777 h")


def test_calls_are_counted() -> None:
    async def fail() -> str:
        raise TransientError("x")

    async def nothing(seconds: float) -> None:
        pass

    calls = CountedCalls(fail)
    assert calls.retries == 0
    with pytest.raises(TransientError):
        asyncio.run(with_retries(calls, 4, random.Random(1), nothing))
    assert calls.retries == 3
