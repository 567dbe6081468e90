"""Text ids of notes: each maps to one number, the same in every table, encoding and run.

A text of digits maps to that number. Any other id that holds a letter maps to a number from 2^52 to 2^53 by its hash,
so that floats and JavaScript can hold it. Two ids with one number are reported as duplicates.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from qilin_rag.core.text import clean

_MOST = 2**63 - 1
_FIRST_HASHED = 2**52
_DIGITS_WITH_E = re.compile(r"[0-9]+[eE][0-9]+")  # as in hexadecimal ids; only Python reads a number
_NUMBER = re.compile(r"-?(?:nan|inf|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)", re.IGNORECASE)


def read_number(text: str) -> int | float | None:
    """Return a number in ASCII digits (a float if it has a point or exponent, or is nan or inf); else None."""
    if not _NUMBER.fullmatch(text):
        return None
    return float(text) if re.search(r"[.en]", text.lower()) else int(text)


def note_number(note_id: str) -> int | float | None:
    """Return the number of a text id; None if the id is neither a number nor holds a letter.

    >>> note_number("17"), note_number("note-17") == note_number(" note-17 ")
    (17, True)
    """
    text = clean(note_id).strip()
    if not _DIGITS_WITH_E.fullmatch(text) and (number := read_number(text)) is not None:
        return number
    if not any(character.isalpha() for character in text):
        return None
    digest = hashlib.sha256(text.encode()).digest()
    return _FIRST_HASHED + int.from_bytes(digest[:8], "big") % _FIRST_HASHED


def text_id_number(note_id: str) -> int | None:
    """Return the whole number of an id in data whose ids are text; None if it is not such an id."""
    number = note_number(note_id)
    return number if isinstance(number, int) and 0 <= number <= _MOST else None


def is_named(note_id: Any) -> bool:
    """Return whether an id is text that its number does not show."""
    return isinstance(note_id, str) and note_number(note_id) is not None and str(note_number(note_id)) != note_id


class NoteIds:
    """Reads the ids of notes in one file, which must be all numbers or all text.

    A file that holds both 17 and "17" may mean two different notes.
    """

    def __init__(self, is_text_allowed: bool = True) -> None:
        """Set whether ids may be text; otherwise only numbers are ids."""
        self._is_text_allowed = is_text_allowed

    def read(self, value: Any) -> int | None:
        """Return the number of a note's id; None if it is missing.

        Raises:
            ValueError: if the value is not an id.
        """
        number: Any = value
        if isinstance(value, str) and self._is_text_allowed:
            number = note_number(value) if value.strip() else None
        elif isinstance(value, int) and not isinstance(value, bool):
            self._is_text_allowed = False
        if value is None or (isinstance(number, float) and math.isnan(number)) or (number is None and value == ""):
            return None
        number = int(number) if isinstance(number, float) and number.is_integer() else number
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MOST:
            raise ValueError(f"must be a whole number from 0, not {shown(value)}")
        return number


def shown(value: Any, most_chars: int = 60) -> str:
    """Return a value as an error shows it: short, on one line."""
    text = repr(value)
    return text if len(text) <= most_chars else f"{text[:most_chars]}..."
