"""The LLM of the query stage: the run's own, with or without changed settings, or another one."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from qilin_rag.config.presets import llm_label_of, named_llm
from qilin_rag.core.errors import UsageError, explain
from qilin_rag.core.registry import LLMS, Component

LONGEST_REPLY = 256
"""The most tokens of a reply, unless `query.llm` says otherwise."""
_OF_PROVIDER = {"model", "base_url"}


def named_query_llm(given: Any) -> dict[str, Any] | None:
    """Return `query.llm` as settings, with the class under `name` and the name that was given under `label`.

    Settings without a name change those of the run's own LLM.
    """
    if given is None or given == {}:
        return None
    if isinstance(given, Component):
        named = given.named()
        given = {"name": named.name, **named.settings}
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, dict) or not all(isinstance(given.get(key, ""), str) for key in ("name", "label")):
        raise ValueError(f"expected the name of an LLM, or a mapping of settings; got {reprlib.repr(given)}")
    if "name" not in given:
        return dict(given)
    preset, changes = named_llm(given["name"]), {key: value for key, value in given.items() if key != "name"}
    if any(key in changes and changes[key] != preset.get(key) for key in _OF_PROVIDER):
        preset.pop("price", None)  # the price of another model or provider
    return {"label": given["name"], **preset, **changes}


def query_llm_of(given: Any, label: str, own: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the label and the settings, with the class under `name`, of the query stage's LLM.

    Args:
        given: `query.llm`.
        label: The label of the run's own LLM.
        own: Its settings, with its class under `name`.
    """
    try:
        named = named_query_llm(given) or {}
    except ValueError as error:
        raise UsageError(f"query.llm: {error}") from error
    if "name" not in named:
        is_other = not _OF_PROVIDER.isdisjoint(named)
        return label, {**own, **({"price": None} if is_other and "price" in own else {}), **named}
    label = named.pop("label")
    settings = {key: value for key, value in named.items() if key != "name"}
    return llm_label_of(label, named, named["name"], settings)[0], named


def flags_for_query_llm(given: Any, by_flag: Collection[str]) -> set[str]:
    """Return the settings of the query stage's LLM that flags name, such as `query.llm.base_url`.

    Flags for the run's own LLM count if the query stage uses it, but not for settings that `query.llm` replaces.

    Args:
        given: `query.llm`.
        by_flag: The settings that flags name, such as `llm.base_url`.
    """
    flags = {name for name in by_flag if name.startswith("query.llm.")}
    changes = named_query_llm(given) or {}
    if "name" in changes:
        return flags
    own = (name for name in by_flag if name.startswith("llm.") and name.split(".")[1] not in changes)
    return flags | {f"query.{name}" for name in own}


def changed_query_llm(given: Any, llm: Component) -> dict[str, Any]:
    """Return the settings of `query.llm`, for tables, that can change a reply and differ from its preset."""
    named = named_query_llm(given) or {}
    preset = named_llm(named["label"]) if "label" in named else {}
    unsaid = {"name", "label", "model", *llm.operational}
    return {name: v for name, v in named.items() if name not in unsaid and preset.get(name, ...) != v}


def build_query_llm(given: Any, own: Any) -> Any:
    """Build the LLM of the query stage: at temperature 0, with short replies, unless `query.llm` says otherwise.

    Args:
        given: `query.llm`.
        own: The LLM of the run.

    Raises:
        UsageError: if a setting is wrong, or the LLM follows no instructions.
    """
    try:
        named = named_query_llm(given) or {}
    except ValueError as error:
        raise UsageError(f"query.llm: {error}") from error
    if "name" in named:
        _, settings = query_llm_of(named, "", {})
        name = settings.pop("name")
        llm = LLMS.create(name, _short(LLMS.resolve(name), settings) | settings, at="query.llm")
    else:
        changes = _short(type(own), own.model_dump()) | named
        if not _OF_PROVIDER.isdisjoint(named) and "price" in type(own).model_fields:
            changes = {"price": None, **changes}
        llm = _changed(own, changes)
    if not llm.takes_tokens:
        raise UsageError(
            f"the query stage needs an LLM that follows instructions, and {llm.called()} follows none; name another: "
            "--set query.llm=PRESET (qilin-rag list llms)"
        )
    return llm


def _short(cls: type[BaseModel], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make replies short and the same each time; one that a model refuses stays left out."""
    defaults = {name: field.default for name, field in cls.model_fields.items()}
    temperature, max_tokens = (settings.get(name, defaults.get(name)) for name in ("temperature", "max_tokens"))
    changes: dict[str, Any] = {"temperature": 0.0} if temperature else {}
    if isinstance(max_tokens, int):
        changes["max_tokens"] = min(max_tokens, LONGEST_REPLY)
    return changes


def _changed(own: Any, changes: Mapping[str, Any]) -> Any:
    """Return an LLM with other settings; the same object if nothing changes."""
    before = own.model_dump()
    changes = {name: value for name, value in changes.items() if name not in before or before[name] != value}
    if not changes:
        return own
    try:
        checked = type(own)(**{**before, **changes})
    except ValidationError as error:
        raise UsageError(f"query.llm: {explain(error, type(own))}") from error
    if own.known_as() != own.class_path():
        return checked
    return own.model_copy(update={name: getattr(checked, name) for name in changes})  # it may hold more than settings
