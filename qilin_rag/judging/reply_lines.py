"""Take the lines of a reply that has nothing but lines of an asked form, unless they may be a quotation.

Invisible characters and emphasis make no difference. A fence of code around the whole reply makes none either, unless
the judge was shown a line of the asked form. A reply whose lines are all among the texts that the judge was shown is a
quotation, with or without marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qilin_rag.core.text import normalise
from qilin_rag.judging.verdicts import BRACKETS, EMPHASIS, THINKING, WHOLE_FENCE


def own_lines(reply: str, shown: Iterable[str] | None, form: re.Pattern[str]) -> list[str]:
    """Return the lines of a reply that are not empty, without emphasis; none if they may be a quotation.

    Args:
        reply: The reply, in one spelling (`visible` or `normalise`).
        shown: All texts under test that the judge was shown; None if they are not known.
        form: The asked form of a line.
    """
    if THINKING.search(reply):
        return []
    seen = {line for text in shown or () for line in _lines(normalise(text))}
    if fenced := WHOLE_FENCE.fullmatch(reply):
        if any(form.fullmatch(line) for line in seen):
            return []
        reply = fenced[2]
    lines = _lines(reply)
    return [] if lines and all(normalise(line) in seen for line in lines) else lines


def unwrapped(word: str) -> str:
    """Return a word without the brackets around it."""
    inside = BRACKETS.fullmatch(word)
    return next(filter(None, inside.groups()), "").strip() if inside else word


def _lines(text: str) -> list[str]:
    return list(filter(None, (EMPHASIS.sub("", line).strip() for line in text.splitlines())))
