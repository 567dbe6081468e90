"""`--set KEY=VALUE`: values are read as YAML, except for text settings, which are taken literally."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import clean

_MOST_VALUES = 100_000
Owner = Callable[[list[str]], type[BaseModel] | type[str] | None]
"""Returns the model that has the last part of a setting's path as a field, or `str`; None if unknown."""


def named_settings(assignments: Iterable[str], base_url: str | None = None) -> set[str]:
    """Return the settings that flags name: `--set` assignments, and `--base-url` if it is given."""
    named = {assignment.partition("=")[0] for assignment in assignments}
    return named | ({"llm.base_url"} if base_url is not None else set())


def parse_overrides(assignments: Iterable[str], owner: Owner = lambda path: None) -> list[tuple[list[str], Any]]:
    """Read `a.b=value` as (["a", "b"], value).

    The value is read as YAML. A text setting takes its value literally: `query: ` is not a mapping there, and `on`,
    `1e3`, `2026-01-01` or `#x` stay text. Quotes around a whole text follow YAML.
    """
    parsed = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise UsageError(f"--set {assignment!r}: expected key=value, for example retriever.k1=1.2")
        path = key.split(".")
        is_text, may_be_none = _kind_of(_annotation(owner(path), path[-1]))
        try:
            value = safe_load(text) if text else ""
        except yaml.YAMLError as error:
            if not is_text or path == ["data"]:  # a name that is not YAML is a typing error
                raise UsageError(f"--set {assignment!r}: the value is not valid YAML") from error
            value = ...
        is_null = may_be_none and text.strip().lower() in ("null", "~")
        is_quoted = isinstance(value, str) and text.lstrip().startswith(("'", '"'))
        parsed.append((path, clean(text) if is_text and not is_null and not is_quoted else value))
    return parsed


def _annotation(model: type[BaseModel] | type[str] | None, name: str) -> Any:
    if model is None or model is str:
        return model
    field = getattr(model, "model_fields", {}).get(name)
    return None if field is None else field.annotation


def _kind_of(annotation: Any) -> tuple[bool, bool]:
    """Return whether a setting of this type is text (a path or a literal, too), and whether it may be None."""
    plain = set(_plain_types(annotation))
    return bool(plain - {type(None)}) and plain <= {str, Path, type(None)}, type(None) in plain


def _plain_types(annotation: Any) -> Iterator[Any]:
    """Yield the types in an annotation, without their constraints."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _plain_types(each)
    elif origin is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif origin is Literal:
        yield from map(type, get_args(annotation))
    else:
        yield annotation


def safe_load(text: str) -> Any:
    """Read YAML as plain data; other errors of the loader (a 13th month, deep nesting) become YAMLError."""
    try:
        value = yaml.safe_load(clean(text))
        if _n_values(value, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES} values")
        return _cleaned(value)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error


def _n_values(value: Any, known: dict[int, int]) -> int:
    """Return the number of values in a document with its aliases expanded, counting each object once."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES  # a list that holds itself
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(item, known) for item in items)
    return known[id(value)]


def _cleaned(value: Any) -> Any:
    """Return the data in a form that can be stored: dates as text, and no half characters from escapes."""
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | set | tuple):
        raise yaml.YAMLError(f"a setting can't be of the type {type(value).__name__}")
    return clean(value) if isinstance(value, str) else value
