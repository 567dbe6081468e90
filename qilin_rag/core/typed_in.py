"""Identity of a class that was typed into a notebook and is in no file: its text and the notebook's objects it uses.

Names in the text of the class are followed to functions, classes and constants of the notebook, and from their texts to
others. Imported objects are identified elsewhere, and other objects (arrays, models) can't be distinguished.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import linecache
import re
import symtable
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import CellType, FunctionType, MethodType
from typing import Any

from pydantic import BaseModel

from qilin_rag.core.errors import UsageError
from qilin_rag.core.plugins import is_secret_name

_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, range)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_CHANGING = re.compile("add|append(left)?|clear|discard|extend|insert|pop(item)?|remove|reverse|setdefault|sort|update")


def typed_in_hash(*classes: type) -> dict[str, str]:
    """Return the hash of the typed-in ones of these classes and of the objects they use; {} if none was typed in.

    A constant counts by its value, unless the code itself changes it (a counter, a memory of earlier calls).

    Raises:
        UsageError: if the source of a class can't be read, so that changes to it could not be detected.
    """
    main = sys.modules["__main__"]
    typed_in = [cls for cls in classes if cls.__module__ == "__main__"]
    if hasattr(main, "__file__") or not typed_in:
        return {}
    sources = [_class_source(cls) for cls in typed_in]
    text = "".join([*sources, *_Notebook(vars(main), typed_in).used_by(sources)])
    return {"typed_in_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _class_source(cls: type) -> str:
    """Return the definition of a class from the cell that holds its methods."""
    functions = [each for each in _functions_of(cls) if each.__module__ == "__main__"]
    for cell in dict.fromkeys(function.__code__.co_filename for function in functions):
        text = "".join(linecache.getlines(cell))
        with suppress(SyntaxError):  # notebook magics are not Python
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                    return ast.get_source_segment(text, node) or text
        if text:
            return text
    if functions:
        raise UsageError(f"the source of {cls.__name__} can't be read; write it into a module of its own")
    return repr(sorted((name, repr(value)) for name, value in vars(cls).items() if name.isupper()))


class _Notebook:
    """The functions, classes and constants of the notebook that defines some classes."""

    def __init__(self, names: dict[str, Any], apart_from: list[type]) -> None:
        self._names = names
        self._apart_from = apart_from
        self._texts: list[str] = []  # definitions whose names are still to be followed

    def used_by(self, sources: list[str]) -> list[str]:
        """Return the objects that these sources use, directly or through others, in the order of their names."""
        self._texts += sources
        described: dict[str, str] = {}
        changed: set[str] = set()
        while self._texts:
            used, changed_here = _names_in(self._texts.pop())
            changed |= changed_here
            for name in used & self._names.keys() - described.keys():
                described[name] = "" if _is_of_python(name) else self._describe(self._names[name])
        return [
            f"\n{name} = {text}"
            for name, text in sorted(described.items())
            if text
            and (isinstance(self._names[name], FunctionType | type) or not (name in changed or is_secret_name(name)))
        ]

    def _describe(self, value: Any, within: tuple[int, ...] = ()) -> str:
        """Return a definition, or a plain value as stable text; empty if it is neither."""
        if type(value) in _PLAIN or isinstance(value, PurePath):
            return repr(value)
        if id(value) in within:
            return "..."
        describe = partial(self._describe, within=(*within, id(value)))
        if isinstance(value, dict):
            return _joined(value, [f"{describe(name)}: {describe(each)}" for name, each in list(value.items())])
        if isinstance(value, tuple | list):
            return _joined(value, map(describe, tuple(value)))
        if isinstance(value, set | frozenset):
            return _joined(value, sorted(map(describe, tuple(value))))
        if isinstance(value, re.Pattern):
            return describe([value.pattern, value.flags])
        if isinstance(value, partial):
            return describe([value.func, value.args, value.keywords])
        if isinstance(value, MethodType):
            return describe([value.__func__, value.__self__])
        if isinstance(value, FunctionType) and value.__globals__ is self._names:
            return self._definition(value) + describe([_content(cell) for cell in value.__closure__ or ()])
        if isinstance(value, type):
            return self._describe_class(value, describe) if value.__module__ == "__main__" else ""
        if isinstance(value, Enum):
            return describe([str(value), value.value, type(value)])
        if isinstance(value, BaseModel):
            return describe([type(value).__qualname__, value.__dict__, type(value)])
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return describe([type(value).__qualname__, fields, type(value)])
        wrapped = getattr(value, "__wrapped__", None) if callable(value) else None
        return describe(wrapped if isinstance(wrapped, FunctionType) else type(value))

    def _describe_class(self, cls: type, describe: Callable[[Any], str]) -> str:
        if cls in self._apart_from:
            return ""
        for function in _functions_of(cls):
            if function.__globals__ is self._names and linecache.getlines(function.__code__.co_filename):
                return self._definition(function)
        signature = ""  # no method was typed in: an enumeration, a dataclass or a named tuple
        with suppress(TypeError, ValueError):
            signature = _ADDRESS.sub("", str(inspect.signature(cls)))
        members = {name: value for name, value in vars(cls).items() if not _is_of_python(name)}
        return f"{cls.__name__}{signature} {describe(members)} {describe(cls.__bases__)}"

    def _definition(self, function: FunctionType) -> str:
        """Return the statement of a cell that defines a function, or the class of a method."""
        line = function.__code__.co_firstlineno
        lines = linecache.getlines(function.__code__.co_filename)
        if not lines:
            raise UsageError(f"the source of {function.__name__} can't be read; write it into a module of its own")
        with suppress(SyntaxError):
            for node in ast.parse("".join(lines)).body:
                first = min(each.lineno for each in [node, *getattr(node, "decorator_list", [])])
                if first <= line <= (node.end_lineno or first):
                    lines = lines[first - 1 : node.end_lineno]
                    break
        self._texts.append("".join(lines))
        return self._texts[-1]


def _names_in(text: str) -> tuple[set[str], set[str]]:
    """Return the global names that a text uses, and those whose values it changes."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
        tables = [symtable.symtable(text, "notebook", "exec")]
    except SyntaxError:
        return set(re.findall(r"[^\W\d]\w*", text)), set()
    used: set[str] = set()
    changed: set[str] = set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        changed |= {each.get_name() for each in table.get_symbols() if each.is_declared_global() and each.is_assigned()}
    for node in nodes:
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.value, ast.Name):
            is_call_that_changes = isinstance(node, ast.Attribute) and _CHANGING.fullmatch(node.attr)
            if is_call_that_changes or not isinstance(node.ctx, ast.Load):
                changed.add(node.value.id)
    return used, changed


def _functions_of(cls: type) -> list[FunctionType]:
    """Return the methods that a class itself defines."""
    members = (
        getattr(each, "__func__", None) or getattr(each, "fget", None) or each for each in list(vars(cls).values())
    )
    return [each for each in members if isinstance(each, FunctionType)]


def _joined(value: Collection[Any], parts: Iterable[str]) -> str:
    """Return a collection as text; empty if none of its parts has a text."""
    texts = list(parts)
    return f"{type(value).__name__}[{', '.join(texts)}]" if any(texts) or not texts else ""


def _content(cell: CellType) -> Any:
    with suppress(ValueError):  # a closure cell that is still empty
        return cell.cell_contents
    return None


def _is_of_python(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
