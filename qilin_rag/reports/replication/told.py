"""Texts of the page in English and Chinese: the English is in the code, and is the key of the Chinese."""

from __future__ import annotations

from typing import NamedTuple

from qilin_rag.reports.replication.chinese import CHINESE


class Told(NamedTuple):
    """A text in both languages."""

    english: str
    chinese: str


def tell(english: str, **values: object) -> Told:
    """Return a text of this package in both languages.

    Args:
        english: The text; its Chinese is in `CHINESE`.
        values: What to put for the names in braces.

    Example:
        >>> tell("done").chinese
        '已完成'
    """
    return Told(english.format(**values), CHINESE[english].format(**values))


def quote(text: str) -> Told:
    """Return a text that is the same in both languages, such as an error of another part of the program."""
    return Told(text, text)
