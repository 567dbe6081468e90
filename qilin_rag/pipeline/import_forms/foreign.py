"""Take what can be used from files of other tools: messages, ids of notes, and what is known of a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from qilin_rag.core.text import clean
from qilin_rag.core.types import Message
from qilin_rag.pipeline.import_forms.table import KnownCall

_LONGEST_QUERY = 500
_OWN = ("status", "error", "raw", "finish_reason", "marks", "usage", "model", "latency_s")


def call_of(known: Mapping[str, Any]) -> KnownCall:
    """Return what is known of a call; names that are not known are left out.

    Raises:
        ValidationError: if a value is not of its kind.
    """
    there = {name: value for name, value in known.items() if name in KnownCall.model_fields and value is not None}
    seconds = there.pop("latency_s", None)
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds) and seconds >= 0:
        there["latency_s"] = float(seconds)
    return KnownCall(**{name: clean(value) if isinstance(value, str) else value for name, value in there.items()})


def own_call(call: Any) -> dict[str, Any]:
    """Return what an export of ours says about a call; nothing if it is no such record."""
    return {name: call[name] for name in _OWN if name in call} if isinstance(call, dict) else {}


def texts_of(messages: Any, resolve: Callable[[str], str] = clean) -> list[Message]:
    """Return chat messages with their texts alone; parts of other kinds (images, tools, thinking) are left out."""
    found: list[Message] = []
    for message in messages if isinstance(messages, list) else []:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if isinstance(content, list):
            parts = [each for each in content if isinstance(each, dict) and each.get("type") == "text"]
            content = "\n".join(each["text"] for each in parts if isinstance(each.get("text"), str))
        if isinstance(role, str) and isinstance(content, str):
            found.append({"role": clean(role), "content": resolve(content)})
    return found


def id_list(value: Any) -> list[Any] | None:
    """Return a list of numbers of notes; None if it is something else, which only has the same name."""
    if not isinstance(value, list) or not all(isinstance(each, int | str) for each in value):
        return None
    is_number = all(str(each).isdecimal() and not isinstance(each, bool) for each in value)
    return value if is_number else None


def one_line_query(text: str) -> str | None:
    """Return a text that can be a query; None for one that is a whole prompt."""
    text = text.strip()
    return text if text and "\n" not in text and len(text) <= _LONGEST_QUERY else None
