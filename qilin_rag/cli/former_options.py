"""Read options by the names that they once had, so that scripts of users still work."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

logger = logging.getLogger(__name__)
_COMMANDS = ("judge", "nuggets")


def renamed(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of the command line by their names of today.

    `--batch N` of `judge` and `nuggets` was the most items a call. It is now `--per-call N`, and `--batch` alone asks
    by batch.
    """
    if not arguments or arguments[0] not in _COMMANDS:
        return list(arguments)
    return list(_per_call(arguments))


def _per_call(arguments: Sequence[str]) -> Iterator[str]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = argument.partition("=")
        if name == "--batch" and (value or following.isdecimal()):
            logger.warning("--batch %s: the most items a call is now --per-call", value or following)
            yield f"--per-call={value}" if value else "--per-call"
        else:
            yield argument
