"""Docstrings as griffe reads them: `Example:` is a section, and a class says what it is made of."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from griffe import Docstring, Extension
from pydantic import BaseModel

import qilin_rag
from docgen.models import meaning
from qilin_rag.config.setting_docs import setting_docs, type_name


class Docstrings(Extension):  # type: ignore[misc]
    """Changes docstrings before griffe parses them."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
        if obj.is_class:
            text = re.sub(r"^Args:$", "Attributes:", text, flags=re.MULTILINE)  # of a class without an __init__
            if obj.name in qilin_rag.__all__ and "\nAttributes:\n" not in text:
                text = with_fields(text, getattr(import_module(obj.module.path), obj.name))
        obj.docstring = Docstring(text, lineno=obj.docstring.lineno, endlineno=obj.docstring.endlineno, parent=obj)


def with_fields(text: str, cls: type) -> str:
    """Return a docstring with the fields of a model as its attributes, before its examples."""
    if not issubclass(cls, BaseModel) or not cls.model_fields:
        return text
    lines = []
    for doc in setting_docs(cls, 10_000):
        kind = type_name(cls.model_fields[doc.name].annotation)
        default = "" if doc.default in ("needed", "") else f" Default: `{doc.default}`."
        said = meaning(cls, doc, kind)
        lines.append(f"    {doc.name}: {said}{'' if said.endswith(('.', '!', '?')) or not said else '.'}{default}")
    before, examples, after = text.partition("Examples:\n")
    return "\n".join([before.rstrip(), "", "Attributes:", *lines, "", examples + after])
