"""Slide a window over a ranking from its end to its front, and read the order that an LLM gives for a window.

Both as in RankGPT (Sun et al. 2023, "Is ChatGPT Good at Search?"): the best notes of a window are in the next one, too,
so that a good note at the end can reach the front.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from qilin_rag.core.text import visible

_RANKING = re.compile(r"\[\s*\d+\s*\](?:\s*>\s*\[\s*\d+\s*\])+", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)
_UNSEEN = re.compile(r"[*`]|\\(?=[\[\]>])")  # emphasis, code, and escapes of Markdown
_SAME = str.maketrans({"【": "[", "】": "]", "〔": "[", "〕": "]", "〉": ">", "≻": ">"})
_MOST_DIGITS = 9


class UnreadableOrderError(ValueError):
    """A reply without one ranking of the notes."""


class WindowOrder(NamedTuple):
    """The order of a window's notes.

    Attributes:
        places: Each place in the window once, from 0, best first; those that were not named follow as they were.
        missing: The number of notes that were not named.
        repeated: The number of names of a note after its first.
        outside: The number of names of no note.
    """

    places: list[int]
    missing: int = 0
    repeated: int = 0
    outside: int = 0


def windows(n: int, window: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each window over `n` notes, from the end to the front.

    The last one begins at the front, and may be smaller. One note is no window: it has only one order.

    Example:
        >>> list(windows(35, window=20, step=10)), list(windows(15, window=20, step=10))
        ([(15, 35), (5, 25), (0, 15)], [(0, 15)])
    """
    end = n
    while end > 1:
        start = max(0, end - window)
        yield start, end
        end = end - step if start else 0


def count_windows(n: int, window: int, step: int) -> int:
    """Return the number of windows over `n` notes."""
    return sum(1 for _ in windows(n, window, step))


def read_order(reply: str, n: int, shown: Iterable[str] = ()) -> WindowOrder:
    """Read a ranking of the form `[2] > [1] > [3]`, also in full-width forms, wherever it is in the reply.

    Args:
        reply: The reply, without thinking.
        n: The number of notes in the window.
        shown: The texts that the LLM was shown: a ranking in one of them is a quotation.

    Raises:
        UnreadableOrderError: if the reply has no ranking, several different ones, or one that names no note.

    Example:
        >>> read_order("排序：【3】＞【1】＞【3】＞【9】", 3)
        WindowOrder(places=[2, 0, 1], missing=1, repeated=1, outside=1)
    """
    quoted = {each for text in shown for each in _rankings(text)}
    found = set(_rankings(reply))
    if not found:
        raise UnreadableOrderError("no ranking of the form [2] > [1]")
    if not (own := found - quoted):
        raise UnreadableOrderError("only a ranking that a note holds, too")
    if len(own) > 1:
        raise UnreadableOrderError("several different rankings")
    [numbers] = own
    named = list(dict.fromkeys(number - 1 for number in numbers if 1 <= number <= n))
    if not named:
        raise UnreadableOrderError("a ranking of other numbers than those of the notes")
    there = set(named)
    rest = [place for place in range(n) if place not in there]
    n_inside = sum(1 <= number <= n for number in numbers)
    return WindowOrder([*named, *rest], len(rest), n_inside - len(named), len(numbers) - n_inside)


def _rankings(text: str) -> list[tuple[int, ...]]:
    """Return the rankings in a text, as the numbers that they name."""
    if ">" not in (plain := unicodedata.normalize("NFKC", visible(text).replace("&gt;", ">")).translate(_SAME)):
        return []
    found = _RANKING.findall(_UNSEEN.sub("", plain))
    return [tuple(map(_number, _NUMBER.findall(each))) for each in found]


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS  # of no note, and quickly read
