"""Let a retriever be made of others, each given by its name and settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import PrivateAttr

from qilin_rag.core.registry import RETRIEVERS, Component, describe
from qilin_rag.retrievers.base import Retriever


def named_part(part: Any) -> dict[str, Any]:
    """Return a part as a mapping with `name` and its settings.

    A part may be a mapping, a name, or in Python a retriever.
    """
    if isinstance(part, Retriever):
        return {"name": part.called(), **part.own_settings()}
    named = {"name": part} if isinstance(part, str) else part
    if not (isinstance(named, dict) and isinstance(named.get("name"), str)):
        raise ValueError("a part is a name, or a mapping with 'name' and its settings")
    return named


def split_part(part: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a part and its settings."""
    return part["name"], {key: value for key, value in part.items() if key != "name"}


def parts_in(component: type[Component], settings: Mapping[str, Any]) -> list[Any]:
    """Return the parts that these settings of a retriever name, unchecked; empty if it is not made of others."""
    if not issubclass(component, Composite):
        return []
    value = settings.get(component.part_setting)
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def leaves(retriever: Retriever) -> Iterator[Retriever]:
    """Yield the retrievers that do the searching, at any depth; a retriever without parts is its own leaf."""
    if not isinstance(retriever, Composite):
        yield retriever
        return
    for part in retriever.parts:
        yield from leaves(part)


class Composite(Retriever):
    """A retriever that is made of others. A subclass fills `_parts` when it is validated.

    Attributes:
        part_setting: The setting that names the parts, one or a list.
    """

    part_setting: ClassVar[str]

    _parts: list[tuple[str, Retriever]] = PrivateAttr(default_factory=list)

    @property
    def parts(self) -> list[Retriever]:
        """Return the retrievers in their order."""
        return [part for _, part in self._parts]

    @property
    def reads_query(self) -> bool:
        """Return whether a part does."""
        return any(part.reads_query for part in self.parts)

    @classmethod
    def names_code(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether one of the parts names code."""
        try:
            named = [split_part(named_part(part)) for part in parts_in(cls, settings)]
            return any(RETRIEVERS.names_code(*part) for part in named)
        except (ValueError, RecursionError):  # no part, or parts in parts: reported when it is made
            return False

    def in_full(self) -> list[dict[str, Any]]:
        """Return the parts with all their settings, as they are used."""
        return [{"name": name, **part.model_dump(mode="json")} for name, part in self._parts]

    def called_parts(self) -> str:
        """Return the parts under their names in tables."""
        return f"({', '.join(_called(self._parts))})"


def _called(parts: Iterable[tuple[str, Retriever]]) -> Iterator[str]:
    for name, part in parts:
        yield describe(RETRIEVERS.label(name), part.changed(RETRIEVERS.implied(name)))
