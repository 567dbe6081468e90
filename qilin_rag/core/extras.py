"""Optional packages: asked for where they are used, with the pip line where they are missing."""

from __future__ import annotations

from importlib.util import find_spec

from qilin_rag.core.errors import UsageError


def missing_modules(*modules: str) -> list[str]:
    """Those of these top-level modules that are not installed; none is imported."""
    return [module for module in modules if find_spec(module) is None]


def require(extra: str, *modules: str, what: str) -> None:
    """UsageError unless all modules are installed: `what` needs them, and `extra` of this package brings them."""
    if missing := missing_modules(*modules):
        raise UsageError(f"{what} needs {', '.join(missing)}, not installed here: pip install 'qilin-rag[{extra}]'")
