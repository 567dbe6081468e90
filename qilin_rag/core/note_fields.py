"""The fields of a note that prompts and retrievers read: a setting of runs and indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

NoteField = Literal["title", "content", "image_text"]
IMAGE_TEXT = "image_text"
"""The field, table and column that hold what the images of a note say."""
_KNOWN: tuple[NoteField, ...] = get_args(NoteField)
TITLE_AND_CONTENT: tuple[NoteField, ...] = ("title", "content")


def read_note_fields(fields: Any) -> tuple[NoteField, ...]:
    """Return the fields that a setting names, in the order in which a note holds them.

    Args:
        fields: A text with commas or plus signs between the names, or a sequence of names; any order.

    Raises:
        ValueError: if a name is unknown or repeated, or there is none.

    >>> read_note_fields("image_text, title")
    ('title', 'image_text')
    """
    names = fields.replace("+", ",").split(",") if isinstance(fields, str) else fields
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"must be names of fields: {', '.join(_KNOWN)}")
    named = [name.strip() for name in names if name.strip()]
    if unknown := next((name for name in named if name not in _KNOWN), None):
        raise ValueError(f"{unknown!r} is not a field of notes; known: {', '.join(_KNOWN)}")
    if repeated := next((name for name in named if named.count(name) > 1), None):
        raise ValueError(f"{repeated!r} is named twice; name each field once")
    if not named:
        raise ValueError(f"names no field; name one or more of {', '.join(_KNOWN)}")
    return tuple(field for field in _KNOWN if field in named)


def note_fields_label(fields: Any) -> str:
    """Return the fields as one word for tables, which `read_note_fields` reads: `title+content+image_text`."""
    return "+".join(read_note_fields(fields))


def recorded_note_fields(config: Mapping[str, Any]) -> str | None:
    """Return the fields that a recorded configuration names, as one word; None if it is not known what was read."""
    fields = config.get("note_fields", TITLE_AND_CONTENT)
    try:
        return None if fields is None else note_fields_label(fields)
    except ValueError:
        return None
