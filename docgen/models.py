"""A pydantic model as a table of its fields: name, type, default, meaning."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import BaseModel
from typing_extensions import is_typeddict

from docgen.html import code, inline, table
from qilin_rag.config.setting_docs import SettingDoc, setting_docs, type_name

_WHOLE = 10_000
"""No meaning of a setting has so many characters."""
_asked_for: set[str] = set()


def models_in(annotation: Any) -> Iterator[type]:
    """Yield the models that a type is made of."""
    if isinstance(annotation, type) and (is_typeddict(annotation) or issubclass(annotation, BaseModel)):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def meaning(model: type, doc: SettingDoc, type_text: str) -> str:
    """Return what a field means: as the code says, else as meanings.yaml says; empty if neither does.

    Texts of the code that begin with the field's own name lose it.
    """
    text = doc.meaning.removeprefix(f"`{doc.name}`: ")
    if text != type_text:
        return text
    key = next((key for key in (f"{model.__name__}.{doc.name}", doc.name) if key in _elsewhere()), "")
    _asked_for.add(key)
    return _elsewhere().get(key, "")


def needless_meanings() -> set[str]:
    """Return the names in meanings.yaml that no page has asked for: they are gone, or explained in the code."""
    return _elsewhere().keys() - _asked_for


@cache
def _elsewhere() -> dict[str, str]:
    content: dict[str, str] = yaml.safe_load(Path(__file__).with_name("meanings.yaml").read_text(encoding="utf-8"))
    return content


def settings_table(model: type[BaseModel], prefix: str = "", docs: list[SettingDoc] | None = None) -> str:
    """Return what can be set of a model: the key for `--set`, its type, its default and its meaning."""
    return table(("Setting", "Type", "Default", "Meaning"), _rows(model, prefix, docs, has_default=True))


def fields_table(model: type) -> str:
    """Return the fields of a model as a file holds them: name, type and meaning."""
    if issubclass(model, BaseModel):
        return table(("Field", "Type", "Meaning"), _rows(model, "", None, has_default=False))
    rows = [
        (code(name), code(type_name(of)), inline(meaning(model, SettingDoc(name, "", type_name(of)), type_name(of))))
        for name, of in get_type_hints(model).items()
    ]
    return table(("Field", "Type", "Meaning"), rows)


def _rows(
    model: type[BaseModel], prefix: str, docs: list[SettingDoc] | None, has_default: bool
) -> Iterator[tuple[str, ...]]:
    for doc in setting_docs(model, _WHOLE) if docs is None else docs:
        type_text = type_name(model.model_fields[doc.name].annotation)
        default = [code(doc.default) if doc.default != "needed" else "needed"] if has_default else []
        yield (code(prefix + doc.name), code(type_text), *default, inline(meaning(model, doc, type_text)))
