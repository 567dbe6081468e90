"""Seconds and amounts of money in readable form."""

from __future__ import annotations

import math


def format_amount(amount: float) -> str:
    """Format an amount with two decimals, or with three digits if it is below 1."""
    decimals = 2 - math.floor(math.log10(amount)) if 0 < amount < 1 else 2
    return f"{amount:,.{decimals}f}"


def format_seconds(seconds: float) -> str:
    """Format seconds: below a minute with one decimal, then minutes and seconds, then hours and minutes."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes} min {rest_s} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
