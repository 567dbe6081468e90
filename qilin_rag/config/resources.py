"""Presets and prompts: their location, and YAML files read as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from qilin_rag.config.overrides import safe_load
from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.text_encodings import hint

_PACKAGE = Path(__file__).parents[1]


def shipped_root() -> Path:
    """Return the folder of the presets and prompts in the package."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else _PACKAGE / "resources"


def _resource_roots() -> list[Path]:
    return list(dict.fromkeys([Path.cwd(), shipped_root()]))


def resource_names(kind: str) -> dict[str, Path]:
    """Return all YAML files of a folder (`prompts`, `configs/llms`) by name, the working directory's first."""
    found: dict[str, Path] = {}
    for root in _resource_roots():
        for path in sorted((root / kind).glob("*.yaml")):
            if path.is_file():  # opening a pipe would wait forever
                found.setdefault(path.stem, path)
    return found


def find_resource(kind: str, name: str) -> Path:
    """Return the file of a named prompt or preset; an error suggests the nearest names."""
    found = resource_names(kind)
    if name not in found:
        folder, _, part = kind.partition("/")
        words = [part, folder] if folder == "prompts" else [part or folder]  # `safety prompt`, `ranker`
        raise unknown_name(" ".join(words).strip().removesuffix("s"), name, found)
    return found[name]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        UsageError: if the file holds anything else; the error names file and line.
    """
    try:
        content = safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}){hint(path)}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path}: expected a mapping of settings")
    return content
