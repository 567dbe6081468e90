"""Optional packages: checked on first use, with the pip command that installs a missing one."""

from __future__ import annotations

from importlib.util import find_spec

from qilin_rag.core.errors import UsageError


def missing_modules(*modules: str) -> list[str]:
    """Return the top-level modules that are not installed, without importing any."""
    found = {module: find_spec(module) for module in modules}
    # The spec of a mere folder of that name, which is no package, has no origin.
    return [module for module, spec in found.items() if spec is None or getattr(spec, "origin", module) is None]


def require(extra: str, *modules: str, what: str) -> None:
    """Check that all modules are installed.

    Args:
        extra: The extra of this package that installs them.
        modules: The names of top-level modules.
        what: The thing that needs them, for the error.

    Raises:
        UsageError: if a module is not installed.
    """
    if missing := missing_modules(*modules):
        raise UsageError(f"{what} needs {', '.join(missing)}, not installed here: pip install 'qilin-rag[{extra}]'")
