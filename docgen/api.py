"""The names that `import qilin_rag` offers, by kind, for mkdocstrings."""

from __future__ import annotations

import qilin_rag

GROUPS = {
    "Runs and comparisons": ("api", "pipeline", "reports"),
    "Retrievers": ("retrievers",),
    "LLMs": ("llms",),
    "Metrics": ("scorers",),
    "Values": ("core.types",),
    "Errors": ("core.errors",),
}
"""The modules of each group, below qilin_rag."""


def api() -> str:
    """Return a section a group, and in it each name; a name that is in no group is a KeyError."""
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in qilin_rag.__all__:
        if name != "__version__":
            names[_group(getattr(qilin_rag, name).__module__)].append(name)
    return "\n\n".join(
        "\n\n".join([f"## {group}", *(f"::: qilin_rag.{name}" for name in found)]) for group, found in names.items()
    )


def _group(module: str) -> str:
    below = module.removeprefix("qilin_rag.")
    for group, modules in GROUPS.items():
        if any(below == each or below.startswith(f"{each}.") for each in modules):
            return group
    raise KeyError(f"{module} is in no group of the reference")
