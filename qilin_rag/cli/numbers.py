"""Read numbers in options strictly, in digits 0-9: Python would also read 1_0 as 10, and digits of other scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def read_strictly(command: Any) -> Any:
    """Make a command and its subcommands refuse other numbers, and return it."""
    for kind in {id(kind): kind for kind in _number_types(command)}.values():
        if not hasattr(kind, "is_strict"):
            kind.is_strict = True
            kind.convert = _strict(kind)
    return command


def _number_types(command: Any) -> Iterator[Any]:
    for below in getattr(command, "commands", {}).values():
        yield from _number_types(below)
    for parameter in command.params:
        if parameter.type.name.split()[0] in ("int", "integer", "float"):
            yield parameter.type


def _strict(kind: Any) -> Any:
    read = kind.convert

    def convert(value: Any, parameter: Any, context: Any) -> Any:
        if isinstance(value, str) and (not value.isascii() or "_" in value):
            kind.fail(f"{value!r} is not a number in digits 0-9.", parameter, context)
        return read(value, parameter, context)

    return convert
