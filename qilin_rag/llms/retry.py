"""Try again what may pass: exponential backoff with full jitter, the server's Retry-After honoured."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")

BASE_S = 0.5
LONGEST_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0


class TransientError(Exception):
    """A call that may well succeed when made again."""

    def __init__(self, reason: str, retry_after_s: float | None = None, is_overload: bool = False) -> None:
        """`retry_after_s`: how long the server asked us to wait; `is_overload`: it got too many calls at once."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_overload = is_overload


def parse_retry_after(header: str | None) -> float | None:
    """Seconds to wait from a Retry-After header (seconds or an HTTP date); None where there is none to read."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if math.isfinite(seconds) else None


def backoff_s(failures: int, rng: random.Random) -> float:
    """Wait after the n-th failure: uniform in 0 .. min(30, 0.5 * 2^(n-1)) s ("full jitter", Brooker 2015)."""
    return rng.uniform(0.0, min(LONGEST_S, BASE_S * 2.0 ** (failures - 1)))


async def with_retries(
    call: Callable[[], Awaitable[T]],
    max_tries: int,
    rng: random.Random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """The result of `call`, made again after a TransientError up to `max_tries` times; then that error."""
    for failures in range(1, max_tries + 1):
        try:
            return await call()
        except TransientError as error:
            if failures == max_tries:
                raise
            wait_s = backoff_s(failures, rng)
            if error.retry_after_s is not None:
                wait_s += error.retry_after_s  # jitter on top, so that waiting calls don't all come back at once
        await sleep(wait_s)
    raise ValueError("max_tries must be at least 1")
