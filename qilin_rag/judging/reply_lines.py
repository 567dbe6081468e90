"""Take the lines of a reply that has nothing but lines of an asked form, unless they may be a quotation.

Invisible characters, emphasis and a fence of code around the whole reply make no difference. A reply with a line of the
asked form that a text under test has, too, is a quotation, with or without marks, so that no answer speaks its own
verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qilin_rag.core.text import normalise

BRACKETS = re.compile(r"<([^<>]*)>|\[([^\[\]]*)\]|【([^【】]*)】|`([^`]*)`")
EMPHASIS = re.compile(r"\*\*|__")
WHOLE_FENCE = re.compile(r"\s*(```|~~~)\w*\n((?:(?!```|~~~).)*)\n\1\s*", re.DOTALL)
THINKING = re.compile(r"<\s*/?\s*think")


def own_lines(reply: str, shown: Iterable[str] | None, form: re.Pattern[str]) -> list[str]:
    """Return the lines of a reply that are not empty, without emphasis; none if they may be a quotation.

    Args:
        reply: The reply, in one spelling (`visible` or `normalise`).
        shown: All texts under test that the judge was shown; None if they are not known.
        form: The form of the lines that may not be copied; lines with equal groups say the same.
    """
    if THINKING.search(reply):
        return []
    if fenced := WHOLE_FENCE.fullmatch(reply):
        reply = fenced[2]
    seen = {found.groups() for text in shown or () for found in _of_form(text, form)}
    return [] if any(found.groups() in seen for found in _of_form(reply, form)) else plain_lines(reply)


def unwrapped(word: str) -> str:
    """Return a word without the brackets around it."""
    inside = BRACKETS.fullmatch(word)
    return next(filter(None, inside.groups()), "").strip() if inside else word


def plain_lines(text: str) -> list[str]:
    """Return the lines of a text that are not empty, without emphasis."""
    return list(filter(None, (EMPHASIS.sub("", line).strip() for line in text.splitlines())))


def _of_form(text: str, form: re.Pattern[str]) -> list[re.Match[str]]:
    return list(filter(None, map(form.fullmatch, plain_lines(normalise(text)))))
