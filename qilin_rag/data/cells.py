"""Single values of a table: converted to the type of their column, and parsed from numpy's printed form."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from qilin_rag.core.text import clean
from qilin_rag.data.note_ids import NoteIds, read_number, shown

_SHOWN_CHARS = 60
_MOST_NESTED = 8
_TOKEN = re.compile(
    r"""\s*(?:(?P<open>\[|array\(|\{)|(?P<close>[\])}])|(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<number>-?(?:nan|inf|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?![\w.]))|(?P<none>None)|(?P<colon>:)"""
    r"""|(?:,\s*dtype=[\w.]+)|,)""",
    re.DOTALL,
)
_NOTE_LIST, _PAIR = pa.list_(pa.int64()), pa.list_(pa.float64())
_TEXTS = pa.list_(pa.string())


def convert(value: Any, kind: pa.DataType, ids: NoteIds | None = None) -> Any:
    """Return `value` as Python data of this type; None if it is missing (null, NaN).

    A single text becomes a list of one if the type is a list.

    Args:
        value: The value of a cell.
        kind: The type of the column.
        ids: The reader of note ids in the value; by default, ids are numbers.

    Raises:
        ValueError: if the value has another type; the text follows the column's name in an error.
    """
    ids = ids or _NUMBERS
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if pa.types.is_integer(kind):
        return _NUMBERS.read(value)
    if pa.types.is_floating(kind):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"must be a number, not {shown(value)}")
        return float(value)
    if pa.types.is_string(kind):
        if not isinstance(value, str):
            raise ValueError(f"must be text, not {shown(value)}")
        return clean(value)
    if pa.types.is_list(kind):
        if kind == _TEXTS and isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise ValueError(f"must be a list, not {shown(value)}")
        if kind == _PAIR and len(value) == 2 and isinstance(value[0], str):
            value = [_at(0, lambda: ids.read(value[0])), value[1]]
        return [_item(i, item, kind, ids) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, not {shown(value)}")
    return {field.name: _at(field.name, partial(convert, value.get(field.name), field.type)) for field in kind}


def identifier(value: Any) -> str | None:
    """Return a question's id as text; a whole number becomes its digits."""
    if isinstance(value, str) or value is None:
        return convert(value, pa.string())  # type: ignore[no-any-return]
    try:
        number = convert(value, pa.int64())
    except ValueError:
        raise ValueError(f"must be a whole number or text, not {shown(value)}") from None
    return None if number is None else str(number)


def _item(place: int, item: Any, kind: pa.DataType, ids: NoteIds) -> Any:
    return _at(place, lambda: ids.read(item) if kind == _NOTE_LIST else convert(item, kind.value_type, ids))


def _at(place: int | str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"[{place!r}] {error}") from None


def parse_cell(text: str, kind: pa.DataType) -> Any:
    """Return a CSV cell as Python data: text unchanged, numbers, and lists in numpy's printed form.

    An empty cell is a missing value, except in a text column. Numbers are in ASCII digits: Python would also read 5_1
    (as 51) and digits of other scripts; these stay text, which `convert` refuses.
    """
    if pa.types.is_string(kind):
        return text
    if not text.strip():
        return None
    if pa.types.is_list(kind):
        is_plain_text = kind == _TEXTS and not text.lstrip().startswith(("[", "array("))
        return text if is_plain_text else parse_repr(text)
    number = read_number(text.strip())
    return text if number is None else number


def parse_repr(text: str) -> Any:
    """Parse numpy's printed form of nested arrays, numbers, strings and dicts, with or without commas; execute nothing.

    Raises:
        ValueError: if the text has another form; the error names the character.
    """
    stack: list[tuple[str, list[Any]]] = [("", [])]
    position = 0
    end = len(text.rstrip())
    while position < end:
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError(
                f"can't be parsed at character {position}: {shown(text[position : position + _SHOWN_CHARS])}"
            )
        position = token.end()
        match token.lastgroup, token[token.lastgroup] if token.lastgroup else "":
            case "open", opened:
                stack.append((opened, []))
                if len(stack) > _MOST_NESTED:
                    raise ValueError("is nested too deeply")
            case "close", closed:
                opened, items = stack.pop()
                if {"[": "]", "array(": ")", "{": "}"}.get(opened) != closed:
                    raise ValueError(f"has a {closed!r} too many or of the wrong kind at character {position - 1}")
                stack[-1][1].append(_closed(opened, items))
            case "text", quoted:
                stack[-1][1].append(ast.literal_eval(quoted))
            case "number", number:
                stack[-1][1].append(read_number(number))
            case "none", _:
                stack[-1][1].append(None)
            case "colon", _:
                stack[-1][1].append(_COLON)
            case _:
                pass  # a comma, or the dtype that numpy prints
    if len(stack) > 1 or len(stack[0][1]) != 1:
        raise ValueError("is not one whole list")
    return stack[0][1][0]


_COLON = object()
_NUMBERS = NoteIds(is_text_allowed=False)


def _closed(opened: str, items: list[Any]) -> Any:
    if opened == "{":
        keys, colons, values = items[::3], items[1::3], items[2::3]
        if len(keys) != len(values) or any(colon is not _COLON for colon in colons) or _COLON in [*keys, *values]:
            raise ValueError("holds a mapping that is not key: value")
        return dict(zip(map(str, keys), values, strict=True))
    if any(item is _COLON for item in items):
        raise ValueError("has a ':' outside a mapping")
    if opened == "array(":
        if len(items) != 1 or not isinstance(items[0], list):
            raise ValueError("holds an array that is not a list")
        return items[0]
    return items
