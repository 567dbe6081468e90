"""Write JSON whose lines are lines to every reader, and texts without addresses."""

from __future__ import annotations

import json
import re
from typing import Any

from qilin_rag.core.text import clean

_BREAKS = "\x85\u2028\u2029"
_LINE_BREAKS = {ord(char): f"\\u{ord(char):04x}" for char in _BREAKS}
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>）】，。]+", re.IGNORECASE)


def as_json(value: Any, indent: int | None = None) -> str:
    r"""Return JSON in which no text breaks a line, also for readers that end lines at U+0085, U+2028 and U+2029.

    >>> as_json({"text": "a\u2028b"})
    '{"text": "a\\u2028b"}'

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    text = clean(text)
    return text.translate(_LINE_BREAKS) if any(char in text for char in _BREAKS) else text


def without_addresses(text: str) -> str:
    """Return a text with `...` in the place of each address, which may name a machine or hold a key.

    >>> without_addresses("no reply from http://10.0.0.7:8000/v1?key=x in 5 s")
    'no reply from ... in 5 s'
    """
    return _ADDRESS.sub("...", text)
