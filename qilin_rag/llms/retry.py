"""Retries of temporary failures: exponential backoff with full jitter, respecting the server's Retry-After."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from qilin_rag.core.types import Usage
from qilin_rag.core.units import format_seconds

T = TypeVar("T")

BASE_S = 0.5
LONGEST_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0
_LONGEST_SAID_S = 100 * 365 * 86400.0
_SINCE_1970 = 1e9  # a larger number of seconds is a point in time
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])", re.IGNORECASE)
_SAID_WAIT = re.compile(
    r"(?:(?:try(?:ing)? again|retry(?:ing)?|come back)\s*(?:in|after)|\bwait)[\s:]*"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:ours?)?|d(?:ays?)?)(?![a-z])[\s,]*)+)",
    re.IGNORECASE,
)


class TransientError(Exception):
    """A failed call that may well succeed when it is repeated."""

    def __init__(
        self, reason: str, retry_after_s: float | None = None, is_overload: bool = False, usage: Usage | None = None
    ) -> None:
        """Set the reason, the seconds to wait, whether the server had too many calls, and the tokens it counted."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_overload = is_overload
        self.usage = usage or Usage()


def parse_retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header (seconds or an HTTP date); None if it can't be read."""
    seconds = _retry_after_s(header)
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER_S)


def asked_wait_s(headers: Mapping[str, Any], words: str = "") -> float | None:
    """Return the seconds that a server asks us to wait, however long; None if it asks for none.

    Args:
        headers: The response's headers by names in lower case: `retry-after(-ms)`, `retry-delay` (Google's, in the
            body), or `x-ratelimit-reset...` of an exhausted limit.
        words: The server's words: "try again in 7m12s".

    >>> asked_wait_s({"retry-after-ms": "1500"}), asked_wait_s({}, "Please try again in 24h0m0s.")
    (1.5, 86400.0)
    """
    in_words = _SAID_WAIT.search(words)
    candidates = [
        _retry_after_s(_text(headers.get("retry-after"))),
        _duration_s(_text(headers.get("retry-after-ms")), "ms"),
        _duration_s(_text(headers.get("retry-delay"))),
        _duration_s(in_words[1]) if in_words else None,
    ]
    if waits := [wait for wait in candidates if wait is not None]:
        return max(waits)
    resets = [_reset_s(headers, name) for name in headers if str(name).startswith("x-ratelimit-reset")]
    return max((wait for wait in resets if wait is not None), default=None)


def say_wait(seconds: float) -> str:
    """Return the duration of a wait, and its end by this machine's clock."""
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
    """Return the seconds of `7m12s`, `1.5 seconds`, or of a number in this unit."""
    if not text:
        return None
    parts = _DURATION.findall(f"{text}{unit}" if _NUMBER.fullmatch(text) else text)
    return sum(float(number) * _UNITS[name.lower()] for number, name in parts) if parts else None


def _reset_s(headers: Mapping[str, Any], name: str) -> float | None:
    """Return the seconds until a limit resets, from a duration or a time since 1970 in seconds or milliseconds."""
    left, text = _text(headers.get(name.replace("reset", "remaining"))), _text(headers[name])
    if left is None or not _NUMBER.fullmatch(left) or float(left) > 0 or not text:
        return None
    if not _NUMBER.fullmatch(text) or float(text) < _SINCE_1970:
        return _duration_s(text)
    when = float(text) / (1000 if float(text) > 1000 * _SINCE_1970 else 1)
    return max(0.0, when - datetime.now(UTC).timestamp())


def backoff_s(failures: int, rng: random.Random) -> float:
    """Return the wait after the n-th failure: uniform in 0 .. min(30, 0.5 * 2^(n-1)) s ("full jitter", Brooker)."""
    return rng.uniform(0.0, min(LONGEST_S, BASE_S * 2.0 ** (failures - 1)))


class CountedCalls(Generic[T]):
    """A call that counts its repeats, and the tokens of tries whose replies are discarded (`discarded`)."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        """Wrap a call that was not made yet."""
        self._call = call
        self._n = 0
        self.discarded = Usage()

    async def __call__(self) -> T:
        """Make the call."""
        self._n += 1
        try:
            return await self._call()
        except TransientError as error:
            self.discarded = self.discarded.plus(error.usage)
            raise

    @property
    def retries(self) -> int:
        """Return the number of calls after the first one."""
        return max(0, self._n - 1)


async def with_retries(
    call: Callable[[], Awaitable[T]],
    max_tries: int,
    rng: random.Random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Return the result of `call`, repeated after TransientErrors up to `max_tries` times; then raise the error."""
    for failures in range(1, max_tries + 1):
        try:
            return await call()
        except TransientError as error:
            if failures == max_tries:
                raise
            wait_s = backoff_s(failures, rng)
            if error.retry_after_s is not None:
                wait_s += error.retry_after_s  # plus jitter, so that waiting calls don't all return at once
        await sleep(wait_s)
    raise ValueError("max_tries must be at least 1")
