"""The fields of the records in files, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from docgen.html import code, docstring
from docgen.models import fields_table, models_in


def fields(path: str, shown: set[type]) -> str:
    """Return the fields of a model, and after it those of the models that it is made of.

    Args:
        path: `module:Class`.
        shown: The models that the page has already; those of this call are added.
    """
    module, _, name = path.partition(":")
    return "\n\n".join(_parts(getattr(import_module(module), name), shown))


def _parts(model: type, shown: set[type], is_first: bool = True) -> Iterator[str]:
    if model in shown:
        return
    shown.add(model)
    if not is_first:
        yield f"<p><strong>{code(model.__name__)}</strong></p>"
    yield docstring(model)
    yield fields_table(model)
    annotations = [field.annotation for field in getattr(model, "model_fields", {}).values()]
    for annotation in annotations or model.__annotations__.values():
        for part in models_in(annotation):
            yield from _parts(part, shown, is_first=False)
