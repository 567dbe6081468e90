"""The settings of a component for people: name, default, and the documentation in its source."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import TypeAliasType

_MOST_CHARS = 160


class SettingDoc(NamedTuple):
    """A setting: its key, its default as `--set` takes it, and its meaning."""

    name: str
    default: str
    meaning: str


def setting_docs(model: type[BaseModel], most_chars: int = _MOST_CHARS) -> list[SettingDoc]:
    """Return the settings of a component, in its order; meanings are cut to `most_chars` characters.

    The meaning is the text under the field, else its entry under `Args:` or `Attributes:` in the docstring of the class
    or of one that it is made from, else the sentences there that name it; else its type.
    """
    bases = [base for base in reversed(model.__mro__) if issubclass(base, BaseModel) and base is not BaseModel]
    described = {name: text for base in bases for name, text in _entries(base.__doc__ or "").items()}
    described |= {name: text for base in bases for name, text in _under_fields(base).items()}
    texts = [(base.__doc__ or "").partition("Example:")[0] for base in reversed(bases)]
    docs = []
    for name, field in model.model_fields.items():
        said = described.get(name) or next(filter(None, (_sentences(text, name) for text in texts)), "")
        meaning = said or type_name(field.annotation)
        docs.append(SettingDoc(name, _default(field), textwrap.shorten(meaning, most_chars, placeholder=" ...")))
    return docs


def as_setting(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(as_setting, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _default(field: Any) -> str:
    return "needed" if field.is_required() else as_setting(field.get_default(call_default_factory=True))


def type_name(annotation: Any) -> str:
    """Return a type as people write it, without constraints: `list[Hit]`, `int | null`, `ok | failed`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, TypeAliasType):
        return type_name(annotation.__value__)
    if origin is Annotated:
        return type_name(parts[0])
    if origin is Literal:
        return " | ".join(as_setting(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(part) for part in parts)
    if annotation in (None, type(None)):
        return "null"
    if annotation is Any:
        return "any"
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(type_name, parts))}]" if origin else name


@cache
def _under_fields(cls: type) -> dict[str, str]:
    """Return the text under each field in the source of the class."""
    try:
        [node] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    texts: dict[str, str] = {}
    body = node.body if isinstance(node, ast.ClassDef) else []
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text_below))):
                texts[name] = text_below
    return texts


def _entries(docstring: str) -> dict[str, str]:
    """Return what the sections `Args:` and `Attributes:` of a docstring say of each name."""
    sections = re.findall(
        r"^(?:Args|Attributes):\n((?:[ \t]+.*\n|\n)+)", f"{inspect.cleandoc(docstring)}\n", re.MULTILINE
    )
    text = "\n".join(textwrap.dedent(section) for section in sections)
    entries = re.findall(r"^(\w+)(?: \(.*?\))?:(.*(?:\n[ \t]+.*)*)", text, re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in entries}


def _sentences(docstring: str, name: str) -> str:
    """Return the part of a docstring that explains `name`: from its mention to the end of the sentence."""
    text = " ".join(docstring.split())
    if (defined := re.search(rf"`{name}`:? ", text)) is None:
        return ""
    start = max(text.rfind(mark, 0, defined.start()) for mark in (". ", "; "))
    end = re.search(r"[.;](?= |$)", text[defined.end() :])
    return text[start + 2 if start >= 0 else 0 : defined.end() + end.start() if end else None].strip()
