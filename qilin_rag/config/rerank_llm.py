"""The LLM of a second stage by its name in a configuration: `llm:PRESET`, with settings under `rerank.llm`."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qilin_rag.config.destinations import check_destination, is_address, say_destination
from qilin_rag.config.presets import named_llm
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RANKERS, Component

LLM = "llm:"
SETTINGS = "llm_settings"
"""The setting of the reranker that holds those of its LLM."""


def is_llm(rerank: Any) -> bool:
    """Return whether a second stage is an LLM.

    >>> is_llm("llm:qwen2.5-72b"), is_llm("BAAI/bge-reranker-v2-m3")
    (True, False)
    """
    return isinstance(rerank, str | Path) and str(rerank).startswith(LLM)


def reranker_class(rerank: Any) -> type[Component]:
    """Return the class whose settings `rerank.KEY` are."""
    return RANKERS.resolve("llm" if is_llm(rerank) else "served" if is_address(str(rerank)) else "pretrained")


def rerank_llm(rerank: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a second stage's LLM, with its class under `name`; empty if it is no LLM.

    Raises:
        UsageError: if there is no such LLM.
    """
    if not is_llm(rerank):
        return {}
    of_llm = settings.get(SETTINGS)
    found = {**named_llm(str(rerank).removeprefix(LLM)), **(of_llm if isinstance(of_llm, dict) else {})}
    if not isinstance(found["name"], str):
        raise UsageError(f"rerank.llm.name: expected the name of an LLM; got {reprlib.repr(found['name'])}")
    return found


def with_llm_setting(settings: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return the settings of a second stage with one of its LLM's settings changed."""
    of_llm = settings.get(SETTINGS)
    return {**settings, SETTINGS: {**(of_llm if isinstance(of_llm, dict) else {}), key: value}}


def rerank_settings(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a second stage from a file, in which those of its LLM are under `llm`."""
    settings = {key: value for key, value in named.items() if key not in ("name", "llm")}
    return settings | ({SETTINGS: named["llm"]} if "llm" in named else {})


def check_rerank_destination(
    rerank: Any, settings: Mapping[str, Any], by_flag: Collection[str], file: Path | None = None
) -> None:
    """Check the LLM of a second stage; see `check_destination`. Log that a key goes to an address that `file` names."""
    if of_llm := rerank_llm(rerank, settings):
        check_destination(str(rerank).removeprefix(LLM), of_llm, by_flag, at="rerank.llm")
        if file is not None:
            say_destination(file, {"llm": settings.get(SETTINGS)}, of_llm, by_flag, at="rerank.llm")
