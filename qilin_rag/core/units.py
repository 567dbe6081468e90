"""Seconds and amounts of money in readable form, and an amount as people write it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]{3})?")


class Amount(NamedTuple):
    """An amount of money; without a currency it is in that of the price list."""

    value: float
    currency: str | None = None

    def __str__(self) -> str:
        return f"{format_amount(self.value)} {self.currency}" if self.currency else format_amount(self.value)


def read_amount(written: Any) -> Amount | None:
    """Read an amount of money above 0: a number, or a text such as `5`, `5USD` or `5 USD`.

    Raises:
        ValueError: if it is none.

    Example:
        >>> read_amount("5 usd"), read_amount(0.25)
        (Amount(value=5.0, currency='USD'), Amount(value=0.25, currency=None))
    """
    if written is None or isinstance(written, Amount):
        return written
    is_number = isinstance(written, int | float) and not isinstance(written, bool)
    found = _AMOUNT.fullmatch(written.strip()) if isinstance(written, str) else None
    value = float(written) if is_number else float(found[1]) if found else 0.0
    if not 0 < value < math.inf:
        raise ValueError("expected an amount above 0, such as 5 or 5USD")
    return Amount(value, found[2].upper() if found and found[2] else None)


AmountSetting = Annotated[Amount, BeforeValidator(read_amount)]


def format_amount(amount: float) -> str:
    """Format an amount with two decimals, or with three digits if it is below 1."""
    decimals = 2 - math.floor(math.log10(amount)) if 0 < amount < 1 else 2
    return f"{amount:,.{decimals}f}"


def round_up(amount: float) -> float:
    """Return the next number with two digits at or above an amount.

    Example:
        >>> round_up(0.0611), round_up(1234)
        (0.062, 1300.0)
    """
    if amount <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(amount)) - 1)
    return float(f"{math.ceil(amount / step * (1 - 1e-12)) * step:.12g}")


def format_seconds(seconds: float) -> str:
    """Format seconds: below a minute with one decimal, then minutes and seconds, then hours and minutes."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes} min {rest_s} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
