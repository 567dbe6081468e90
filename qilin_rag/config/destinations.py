"""Destinations of prompts and keys: reported or refused before a configuration sends any there."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic_core import PydanticUndefined

from qilin_rag.config.presets import read_preset
from qilin_rag.config.resources import shipped_root
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import LLMS, RANKERS

logger = logging.getLogger(__name__)


def say_destination(
    file: Path, from_file: Mapping[str, Any], llm: Mapping[str, Any], by_flag: Collection[str], at: str = "llm"
) -> None:
    """Log that a key goes to an address that a file of settings names for the LLM at the path `at`."""
    named = {*from_file, *(from_file["llm"] if isinstance(from_file.get("llm"), dict) else ())}
    address, key = llm.get("base_url"), LLMS.resolve(llm["name"]).model_fields.get("api_key_env")
    if named.isdisjoint({"base_url", "api_key_env"}) or not isinstance(address, str) or f"{at}.base_url" in by_flag:
        return
    variable = str(llm.get("api_key_env", key.default if key else ""))
    if not is_loopback(address) and os.environ.get(variable, "").strip():
        logger.warning("%s names the address: the key in %s goes to %s", file, variable, address)


def say_rerank_destination(file: Path, address: str, settings: Mapping[str, Any]) -> None:
    """Log that a key goes to the reranker whose address a file of settings names."""
    field = RANKERS.resolve("served").model_fields["api_key_env"]
    variable = str(settings.get("api_key_env", field.default))
    if is_address(address) and not is_loopback(address) and os.environ.get(variable, "").strip():
        logger.warning("%s names the address: the key in %s goes to %s", file, variable, address)


def is_address(name: str) -> bool:
    """Return whether a name is the address of a server.

    >>> is_address("http://127.0.0.1:8000/v1/rerank"), is_address("BAAI/bge-reranker-v2-m3")
    (True, False)
    """
    return name.startswith(("http://", "https://"))


def is_loopback(address: str) -> bool:
    """Return whether an address is on this machine only."""
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def as_flag(name: str, value: Any) -> str:
    """Return the flag that sets this setting of a run, quoted for a shell."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if name == "llm.base_url" and value is not None:
        return f"--base-url {shlex.quote(text)}"
    return f"--set {shlex.quote(f'{name}={text}')}"


def check_destination(
    label: str, llm: Mapping[str, Any], by_flag: Collection[str], serve: bool = False, at: str = "llm"
) -> None:
    """Check an LLM that has the name of a shipped preset, but another address or key.

    A preset of the working folder, or a file of settings, may replace a shipped one. The change is logged.

    Args:
        label: The name of the preset.
        llm: The LLM's settings, with its class under `name`.
        by_flag: The settings that flags name, such as `llm.base_url`.
        serve: Whether the run starts its own server, so that no other address counts.
        at: The path of the LLM's settings in a configuration.

    Raises:
        UsageError: if a key would go there.
    """
    local_file, shipped = (root / "configs/llms" / f"{label}.yaml" for root in (Path.cwd(), shipped_root()))
    if serve or not shipped.is_file():
        return
    expected = read_preset(shipped)
    component = LLMS.resolve(llm["name"])
    fields = {name: component.model_fields[name].default for name in sorted(component.outward)}
    is_other_class = expected["name"] != llm["name"]
    changed = {
        name: (expected.get(name, default), value)
        for name, default in fields.items()
        if (value := llm.get(name, default)) != expected.get(name, default) or is_other_class
        if f"{at}.{name}" not in by_flag
    }
    addresses = changed.get("base_url", ())
    if not changed or (set(changed) == {"base_url"} and all(is_loopback(str(address)) for address in addresses)):
        return
    changes = ", ".join(
        f"{name} {value} (the shipped one: {'none' if before is PydanticUndefined else before})"
        for name, (before, value) in changed.items()
    )
    source = local_file if local_file.is_file() and local_file != shipped else "a file"
    message = f"{source} changes the preset {label}: {changes}"
    variable = llm.get("api_key_env", fields.get("api_key_env"))
    if variable is None or os.environ.get(str(variable), "").strip():
        flags = " ".join(as_flag(f"{at}.{name}", value) for name, (_, value) in changed.items())
        raise UsageError(f"{message}; a key would go there, so confirm it if you mean it: {flags}")
    logger.warning("%s", message)
