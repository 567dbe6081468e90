"""LLM presets: files of settings, a GGUF file, or the name of a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_rag.config.resources import read_yaml, resource_names
from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.registry import LLMS

GGUF = "gguf:"
_GGUF_CONTEXT_LENGTH = 8192


def _gguf_preset(path: str) -> dict[str, Any]:
    """Return the preset that `gguf:PATH` stands for: the file, served by llama.cpp, known by its name."""
    if not path.strip():
        raise UsageError(f"llm {GGUF!r}: nothing stands behind the colon; write {GGUF}FILE")
    settings = {"model": Path(path).stem, "context_length": _GGUF_CONTEXT_LENGTH}
    return {"name": "openai", **settings, "engine": {"name": "llamacpp", "model": path}}


def preset_settings(name: str) -> tuple[str, dict[str, Any]]:
    """Return the LLM class that a preset, or what can be given instead of one, stands for, and its settings."""
    settings = named_llm(name)
    return settings.pop("name"), settings


def named_llm(name: str) -> dict[str, Any]:
    """An LLM preset's settings, its class under `name`; a name without a preset is a class itself."""
    if name.startswith(GGUF):
        return _gguf_preset(name.removeprefix(GGUF))
    if ":" in name or name in LLMS.table():
        return {"name": name, **LLMS.implied(name)}
    presets = resource_names("configs/llms")
    if name not in presets:
        raise unknown_name("llm", name, [*presets, *LLMS.table()])
    return read_preset(presets[name])


def read_preset(path: Path) -> dict[str, Any]:
    """The settings in the file of a preset, its class under `name`; a UsageError where it can't be one."""
    preset = read_yaml(path)
    kind = preset.pop("class", None)
    if kind not in LLMS.table():
        raise UsageError(f"{path}: class must be one of {', '.join(LLMS.table())}; got {kind!r}")
    if LLMS.names_code(kind, preset):
        raise UsageError(f"{path}: a preset can't name code (package.module:NAME); that goes to --llm")
    return {**preset, "name": kind}


def known_preset(name: str) -> dict[str, Any]:
    """Read the preset file of this name, its class under `name`; empty if there is none."""
    presets = resource_names("configs/llms")
    return read_preset(presets[name]) if name in presets else {}
