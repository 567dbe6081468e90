"""Try again what may pass: exponential backoff with full jitter, the server's Retry-After honoured."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from qilin_rag.core.units import format_seconds

T = TypeVar("T")

BASE_S = 0.5
LONGEST_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0
_LONGEST_SAID_S = 100 * 365 * 86400.0
_SINCE_1970 = 1e9  # a number of seconds that is larger is a time
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])", re.IGNORECASE)
_SAID_WAIT = re.compile(
    r"(?:(?:try(?:ing)? again|retry(?:ing)?|come back)\s*(?:in|after)|\bwait)[\s:]*"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:ours?)?|d(?:ays?)?)(?![a-z])[\s,]*)+)",
    re.IGNORECASE,
)


class TransientError(Exception):
    """A call that may well succeed when made again."""

    def __init__(self, reason: str, retry_after_s: float | None = None, is_overload: bool = False) -> None:
        """`retry_after_s`: how long the server asked us to wait; `is_overload`: it got too many calls at once."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_overload = is_overload


def parse_retry_after(header: str | None) -> float | None:
    """Seconds to wait from a Retry-After header (seconds or an HTTP date); None where there is none to read."""
    seconds = _retry_after_s(header)
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER_S)


def asked_wait_s(headers: Mapping[str, Any], words: str = "") -> float | None:
    """Return the seconds that a server asks us to wait, however long, or None.

    Args:
        headers: Those of the response, by names in lower case: `retry-after(-ms)`, `retry-delay` (Google's, of the
            body), or `x-ratelimit-reset...` of a limit that is used up.
        words: What it said: "try again in 7m12s".

    >>> asked_wait_s({"retry-after-ms": "1500"}), asked_wait_s({}, "Please try again in 24h0m0s.")
    (1.5, 86400.0)
    """
    said = _SAID_WAIT.search(words)
    found = [
        _retry_after_s(_text(headers.get("retry-after"))),
        _duration_s(_text(headers.get("retry-after-ms")), "ms"),
        _duration_s(_text(headers.get("retry-delay"))),
        _duration_s(said[1]) if said else None,
    ]
    if waits := [each for each in found if each is not None]:
        return max(waits)
    resets = [_reset_s(headers, name) for name in headers if str(name).startswith("x-ratelimit-reset")]
    return max((each for each in resets if each is not None), default=None)


def say_wait(seconds: float) -> str:
    """How long it is, and when it is over by this machine's clock."""
    over = datetime.now().astimezone() + timedelta(seconds=min(seconds, _LONGEST_SAID_S))
    return f"{format_seconds(seconds)}, until {over:%Y-%m-%d %H:%M}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip()


def _retry_after_s(header: str | None) -> float | None:
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _duration_s(text: str | None, unit: str = "s") -> float | None:
    """Seconds of `7m12s`, `1.5 seconds`, or of a number in this unit."""
    if not text:
        return None
    parts = _DURATION.findall(f"{text}{unit}" if _NUMBER.fullmatch(text) else text)
    return sum(float(number) * _UNITS[name.lower()] for number, name in parts) if parts else None


def _reset_s(headers: Mapping[str, Any], name: str) -> float | None:
    """Until a limit that is used up is renewed: a duration, or a time in seconds or milliseconds since 1970."""
    left, text = _text(headers.get(name.replace("reset", "remaining"))), _text(headers[name])
    if left is None or not _NUMBER.fullmatch(left) or float(left) > 0 or not text:
        return None
    if not _NUMBER.fullmatch(text) or float(text) < _SINCE_1970:
        return _duration_s(text)
    when = float(text) / (1000 if float(text) > 1000 * _SINCE_1970 else 1)
    return max(0.0, when - datetime.now(UTC).timestamp())


def backoff_s(failures: int, rng: random.Random) -> float:
    """Wait after the n-th failure: uniform in 0 .. min(30, 0.5 * 2^(n-1)) s ("full jitter", Brooker 2015)."""
    return rng.uniform(0.0, min(LONGEST_S, BASE_S * 2.0 ** (failures - 1)))


class CountedCalls(Generic[T]):
    """A call that counts how often it is made."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        """It was not made yet."""
        self._call = call
        self._n = 0

    async def __call__(self) -> T:
        """Make it."""
        self._n += 1
        return await self._call()

    @property
    def retries(self) -> int:
        """How often it was made beyond the first time."""
        return max(0, self._n - 1)


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
