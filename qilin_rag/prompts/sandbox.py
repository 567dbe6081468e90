"""Jinja's sandbox with limits on output size: prompts may come from strangers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_LONGEST_REPEAT = 10**6
_MOST_CHARS, _MOST_PIECES = 10**8, 10**6
_WIDTH = re.compile(r"[0-9*]{7,}|\{[^}]*:[^}]*\{")  # a width in a format: many digits, or a nested field


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja sandbox that also limits the size that a short expression can produce.

    Limits: numbers given to functions and filters, widths in formats, sums and products of texts, and the output.
    """

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self, **options: Any) -> None:
        """Create Jinja's environment without `lipsum`, which can produce any amount of text."""
        super().__init__(**options)
        del self.globals["lipsum"]
        self.filters = {name: _limited(name, filter_) for name, filter_ in self.filters.items()}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse `**` and operations that give long texts or lists."""
        sizes = [len(side) for side in (left, right) if hasattr(side, "__len__")]
        times = next((side for side in (left, right) if isinstance(side, int)), 0)
        is_huge = {
            "*": sum(sizes) * times > _LONGEST_REPEAT,
            "**": True,
            "+": len(sizes) == 2 and sum(sizes) > _MOST_CHARS,
            "%": isinstance(left, str) and bool(_WIDTH.search(left)),
        }
        if is_huge[operator]:
            raise SecurityError(f"{operator} is not available for this")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method, but not with a huge number."""
        name = str(getattr(function, "__name__", "this"))
        if name != "safe_range":  # it has its own limit
            _refuse_huge(name, args, kwargs)
        if name in ("format", "format_map") and _WIDTH.search(str(getattr(function, "__self__", ""))):
            raise SecurityError(f"{name} is not available for this")
        return super().call(context, function, *args, **kwargs)

    @staticmethod
    def fill(template: jinja2.Template, values: Mapping[str, Any]) -> str:
        """Render a template.

        Raises:
            SecurityError: if the output is too long. Expressions in the template may raise other errors.
        """
        pieces: list[str] = []
        n_chars = 0
        for piece in template.generate(values):
            pieces.append(piece)
            n_chars += len(piece)
            if n_chars > _MOST_CHARS or len(pieces) > _MOST_PIECES:
                raise SecurityError("its output is too long")
        return "".join(pieces)


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses huge numbers."""

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _refuse_huge(name, args, kwargs)
        if name == "format" and any(isinstance(arg, str) and _WIDTH.search(arg) for arg in args[:1]):
            raise SecurityError(f"{name} is not available for this")
        return function(*args, **kwargs)

    return limited


def _refuse_huge(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if any(isinstance(arg, int) and abs(arg) > _LONGEST_REPEAT for arg in (*args, *kwargs.values())):
        raise SecurityError(f"{name} is not available for such a number")
