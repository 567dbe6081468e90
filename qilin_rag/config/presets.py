"""LLM presets: files of settings, a GGUF file, or the name of a class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qilin_rag.config.resources import read_yaml, resource_names
from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.registry import LLMS
from qilin_rag.core.text import short_path

GGUF = "gguf:"
_GGUF_CONTEXT_LENGTH = 8192


def _gguf_preset(path: str) -> dict[str, Any]:
    """Return the preset of `gguf:PATH`: the file, served by llama.cpp, under its name."""
    if not path.strip():
        raise UsageError(f"llm {GGUF!r}: the value after the colon is missing; write {GGUF}FILE")
    settings = {"model": Path(path).stem, "context_length": _GGUF_CONTEXT_LENGTH}
    return {"name": "openai", **settings, "engine": {"name": "llamacpp", "model": path}}


def preset_settings(name: str) -> tuple[str, dict[str, Any]]:
    """Return the LLM class and the settings of a preset, a GGUF file or a class."""
    settings = named_llm(name)
    return settings.pop("name"), settings


def named_llm(name: str) -> dict[str, Any]:
    """Return an LLM preset's settings with its class under `name`; a name without a preset is a class."""
    if name.startswith(GGUF):
        return _gguf_preset(name.removeprefix(GGUF))
    if ":" in name or name in LLMS.table():
        return {"name": name, **LLMS.implied(name)}
    presets = resource_names("configs/llms")
    if name not in presets:
        raise unknown_name("llm", name, [*presets, *LLMS.table()])
    return read_preset(presets[name])


def read_preset(path: Path) -> dict[str, Any]:
    """Return the settings in a preset's file, with its class under `name`.

    Raises:
        UsageError: if the file is not a preset.
    """
    preset = read_yaml(path)
    kind = preset.pop("class", None)
    if kind not in LLMS.table():
        raise UsageError(f"{path}: class must be one of {', '.join(LLMS.table())}; got {kind!r}")
    if LLMS.names_code(kind, preset):
        raise UsageError(f"{path}: a preset can't name code (package.module:NAME); give that as llm (--llm)")
    return {**preset, "name": kind}


def preset_file(name: str) -> Path | None:
    """Return the file of the preset with this name; None if it is no preset's."""
    return None if ":" in name or name in LLMS.table() else resource_names("configs/llms").get(name)


def known_preset(name: str) -> dict[str, Any]:
    """Return the settings of the preset with this name, with its class under `name`; empty if there is none."""
    presets = resource_names("configs/llms")
    return read_preset(presets[name]) if name in presets else {}


def llm_label_of(
    given: str, preset: dict[str, Any], llm_class: str, llm: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the label of an LLM, and the settings that it stands for: one label, whichever way the LLM was given."""
    if given.startswith(GGUF):
        return preset["model"], preset
    if given == "openai" and isinstance(model := llm.get("model"), str):  # an endpoint is named after its model
        return short_path(model, hashlib.sha256(model.encode()).hexdigest()), {"model": model}
    argument = LLMS.resolve(llm_class).argument
    if argument is not None and LLMS.is_registered(given) and argument in llm:
        return f"{llm_class.partition(':')[0]}:{llm[argument]}", {argument: llm[argument]}
    return given, preset
