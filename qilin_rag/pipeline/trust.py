"""Decide what of a stranger's run may be repeated: addresses, keys and programs need a flag or a preset."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qilin_rag.config.destinations import as_flag, check_destination, is_address, is_loopback
from qilin_rag.config.presets import known_preset
from qilin_rag.config.query_llm import flags_for_query_llm, named_query_llm, query_llm_of
from qilin_rag.config.rerank_llm import LLM, check_rerank_destination, rerank_llm
from qilin_rag.config.spec import RunSpec
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import LLMS, QUERIES, RANKERS, RETRIEVERS, SCORERS, Component, Named, Registry
from qilin_rag.retrievers.parts import Composite, parts_in

logger = logging.getLogger(__name__)
_PUBLIC_DATA = "hub:THUIR/Qilin"
_OUTWARD = re.compile(
    r"(?i)(^|_)(ur[li]s?|hosts?|address|endpoint|prox(y|ies)|server|key|token|secret|headers?|env|command|program)($|_)"
)
_NO_KEY = ""


def trusted(path: Path, config: RunSpec, named: set[str], allow_code: bool = False) -> RunSpec:
    """Return the configuration that is safe to repeat: what a flag, a preset or a default says, and plain settings.

    Args:
        path: The run directory, for messages.
        config: What its manifest says, with what flags changed.
        named: The settings that flags name (`overrides.named_settings`).
        allow_code: Whether code that the run names may be run.

    Raises:
        UsageError: The run names an address, a variable that holds a key, an argument of an engine, or code that
            neither a flag nor the preset of its LLM names. The message says which flags allow it.
    """
    if (code := sorted(_code_named(config, named))) and not allow_code:
        raise UsageError(f"{path} names code to run: {', '.join(code)}; --allow-code does so, if you trust it")
    preset = _preset_of(config)
    untrusted = [*_outward_of_llm(config, preset, named, allow_code), *_outward_of_others(config, named)]
    untrusted += _outward_of_rerank_llm(config, named, allow_code)
    if config.serve:
        untrusted += _of_engine(config.llm.settings.get("engine"), preset.get("engine"), named)
    of_query = _with_query_llm(config)
    of_query_named: set[str] = set()
    if of_query is not None:
        assert config.query is not None
        flags_of_query = flags_for_query_llm(config.query.settings["llm"], named)
        of_query_named = {each.removeprefix("query.") for each in flags_of_query}
        its = _outward_of_llm(of_query, _preset_of(of_query), of_query_named, allow_code)
        untrusted += [(f"query.{name}", value) for name, value in its if (name, value) not in untrusted]
    if config.data.startswith("hub:") and config.data != _PUBLIC_DATA and "data" not in named:
        untrusted.append(("data", config.data))
    if untrusted:
        what = ", ".join(f"{name} {_short(value)}" for name, value in untrusted)
        flags = " ".join(as_flag(name, value) for name, value in untrusted)
        raise UsageError(f"{path} alone names {what}; if you trust it, name it yourself: {flags}")
    _check_plain_files(path, config)
    if preset:
        check_destination(config.llm_label, {**config.llm.settings, "name": config.llm.name}, named, config.serve)
    check_rerank_destination(config.rerank, config.rerank_settings, named)
    if of_query is not None:
        if preset_of_query := _preset_of(of_query):
            settings = {**of_query.llm.settings, "name": of_query.llm.name}
            by_flag = {f"query.{each}" for each in of_query_named}
            check_destination(of_query.llm_label, settings, by_flag, of_query.serve, at="query.llm")
        if _without_key(of_query, preset_of_query, of_query_named) is not of_query:
            config = _without_query_key(config)
    return _without_key(config, preset, named)


def _preset_of(config: RunSpec) -> dict[str, Any]:
    """Return the preset with the label of a run's LLM; empty if there is none of its class."""
    preset = known_preset(config.llm_label)
    return preset if preset.get("name") == config.llm.name else {}


def _with_query_llm(config: RunSpec) -> RunSpec | None:
    """Return the run with the LLM of its query stage in place of its own; None if it has no other settings."""
    if config.query is None or not (given := config.query.settings.get("llm")):
        return None
    own = {"name": config.llm.name, **config.llm.settings}
    label, settings = query_llm_of(given, config.llm_label, own)
    llm = Named(name=settings["name"], settings={name: value for name, value in settings.items() if name != "name"})
    is_own = isinstance(given, dict) and "name" not in given
    return config.model_copy(update={"llm": llm, "llm_label": label, "serve": config.serve and is_own})


def _without_query_key(config: RunSpec) -> RunSpec:
    """Remove the key of the query stage's LLM."""
    assert config.query is not None
    llm = {**(named_query_llm(config.query.settings["llm"]) or {}), "api_key_env": _NO_KEY}
    query = config.query.model_copy(update={"settings": {**config.query.settings, "llm": llm}})
    return config.model_copy(update={"query": query})


def _outward_of_llm(
    config: RunSpec, preset: Mapping[str, Any], named: set[str], allow_code: bool
) -> Iterator[tuple[str, Any]]:
    """Yield the LLM's settings for addresses and keys that only the run names."""
    if (llm := _class_of(LLMS, config.llm.name)) is None:
        return
    settings = LLMS.implied(config.llm.name) | config.llm.settings
    for name, value, expected in _outward_settings(llm, settings, preset):
        is_code = name == "spec" and allow_code and llm.names_code(settings)
        if value == expected or f"llm.{name}" in named or is_code or (name == "base_url" and config.serve):
            continue
        if name == "base_url" and isinstance(value, str) and is_loopback(value):
            continue
        if name == "api_key_env" and not os.environ.get(str(value), "").strip():
            continue
        yield f"llm.{name}", value


def _outward_of_others(config: RunSpec, named: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the same settings of retriever, second stage and metrics."""
    others = [("retriever", RETRIEVERS, config.retriever.name, config.retriever.settings)]
    others += [(f"metrics.{name}", SCORERS, name, settings) for name, settings in config.metrics.items()]
    for prefix, registry, full_name, given in others:
        settings = registry.implied(full_name) | given
        component = _class_of(registry, full_name)
        for name, value, expected in _outward_settings(component, settings, {}) if component else ():
            if value != expected and f"{prefix}.{name}" not in named:
                yield f"{prefix}.{name}", value
    yield from _outward_of_reranker(config, named)
    retriever = _class_of(RETRIEVERS, config.retriever.name)
    if retriever is not None and issubclass(retriever, Composite):
        parts = parts_in(retriever, RETRIEVERS.implied(config.retriever.name) | config.retriever.settings)
        if f"retriever.{retriever.part_setting}" not in named and any(map(_is_outward_part, parts)):
            yield f"retriever.{retriever.part_setting}", parts


def _outward_of_reranker(config: RunSpec, named: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the address and the key's variable of a served reranker; without a key, one on this machine is allowed."""
    address = str(config.rerank)
    if not is_address(address):
        return
    default = RANKERS.resolve("served").model_fields["api_key_env"].default
    variable = config.rerank_settings.get("api_key_env", default)
    has_key = bool(os.environ.get(str(variable), "").strip())
    if "rerank" not in named and (has_key or not is_loopback(address)):
        yield "rerank", address
    if variable != default and has_key and "rerank.api_key_env" not in named:
        yield "rerank.api_key_env", variable


def _outward_of_rerank_llm(config: RunSpec, named: set[str], allow_code: bool) -> Iterator[tuple[str, Any]]:
    """Yield the addresses and keys of an LLM that reranks; without a key, an address on this machine is allowed."""
    settings = rerank_llm(config.rerank, config.rerank_settings)
    if not settings or (llm := _class_of(LLMS, kind := settings.pop("name"))) is None:
        return
    settings = LLMS.implied(kind) | settings
    key = llm.model_fields.get("api_key_env")
    preset = known_preset(str(config.rerank).removeprefix(LLM))
    for name, value, expected in _outward_settings(llm, settings, preset if preset.get("name") == kind else {}):
        variable = settings.get("api_key_env", key.default if key else None)
        has_key = bool(os.environ.get(str(variable), "").strip())
        is_code = name == "spec" and allow_code and llm.names_code(settings)
        is_harmless = not has_key and (name == "api_key_env" or (name == "base_url" and is_loopback(str(value))))
        if value != expected and f"rerank.llm.{name}" not in named and not is_code and not is_harmless:
            yield f"rerank.llm.{name}", value


def _is_outward_part(part: Any) -> bool:
    """Return whether a part of a retriever, or a part of that, names an address or a key."""
    settings = {"name": part} if isinstance(part, str) else dict(part) if isinstance(part, dict) else {}
    name = str(settings.pop("name", ""))
    component = _class_of(RETRIEVERS, name)
    if component is None:
        return False
    settings = RETRIEVERS.implied(name) | settings
    own = _outward_settings(component, settings, {})
    return any(value != expected for _, value, expected in own) or any(
        map(_is_outward_part, parts_in(component, settings))
    )


def _class_of(registry: Registry[Any], name: str) -> type[Component] | None:
    """Return the class of a component; None if the name is unknown, which is an error when it is built."""
    return registry.resolve(name) if ":" in name or registry.is_registered(name) else None


def _outward_settings(
    component: type[Component], settings: Mapping[str, Any], preset: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and expected value of the settings for addresses and keys.

    In components that are not ours, these are recognised by their names.
    """
    for name, field in component.model_fields.items():
        is_ours = component.__module__.startswith("qilin_rag.")
        if name in component.outward or (not is_ours and _OUTWARD.search(name)):
            default = field.get_default(call_default_factory=True, validated_data={})
            yield name, settings.get(name, default), preset.get(name, default)


def _without_key(config: RunSpec, preset: Mapping[str, Any], named: set[str]) -> RunSpec:
    """Remove the key if only the run names the address, which is then on this machine."""
    settings = config.llm.settings
    component = _class_of(LLMS, config.llm.name)
    for name, value, expected in _outward_settings(component, settings, preset) if component else ():
        if name != "base_url" or value == expected or "llm.base_url" in named or config.serve:
            continue
        variable = str(settings.get("api_key_env"))
        if os.environ.get(variable, "").strip():
            logger.info("%s gets no key, since only the run names it; --base-url %s sends it", value, value)
            llm = config.llm.model_copy(update={"settings": {**settings, "api_key_env": _NO_KEY}})
            return config.model_copy(update={"llm": llm})
    return config


def _of_engine(engine: Any, preset: Any, named: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the variables and arguments of an engine that only the run names."""
    settings, expected = (each if isinstance(each, dict) else {} for each in (engine, preset))
    if "llm.engine" in named:
        return
    environment, known = (each.get("environment") or {} for each in (settings, expected))
    if isinstance(environment, dict) and "llm.engine.environment" not in named:
        for variable, value in environment.items():
            is_known = isinstance(known, dict) and known.get(variable) == value
            if not is_known and f"llm.engine.environment.{variable}" not in named:
                yield f"llm.engine.environment.{variable}", value
    arguments = settings.get("extra_arguments") or []
    if arguments != (expected.get("extra_arguments") or []) and "llm.engine.extra_arguments" not in named:
        yield "llm.engine.extra_arguments", arguments


def _code_named(config: RunSpec, named: set[str]) -> Iterator[str]:
    """Yield the code and programs, other than registered components, that this configuration would run."""
    components = [(RETRIEVERS, config.retriever.name, config.retriever.settings)]
    components += [(LLMS, config.llm.name, config.llm.settings)]
    components += [(QUERIES, config.query.name, config.query.settings)] if config.query else []
    components += [(SCORERS, name, settings) for name, settings in config.metrics.items()]
    if of_llm := rerank_llm(config.rerank, config.rerank_settings):
        components.append((LLMS, of_llm.pop("name"), of_llm))
    for registry, name, settings in components:
        if registry.names_code(name, settings):
            parts = parts_in(registry.resolve(name), settings) if registry.is_registered(name) else []
            if registry is QUERIES and registry.is_registered(name):
                name = str((named_query_llm(settings["llm"]) or {})["name"])
            yield f"{name} of {_short(parts)}" if parts else str(settings.get("spec", name))
    engine = config.llm.settings.get("engine")
    is_named = not named.isdisjoint({"llm.engine", "llm.engine.python"})
    if config.serve and isinstance(engine, dict) and engine.get("python") and not is_named:
        yield str(engine["python"])


def _check_plain_files(path: Path, config: RunSpec) -> None:
    """Raise a UsageError if the run names a pipe or a device, which would block or never end."""
    for name, value in _texts("", config.model_dump(mode="json")):
        try:
            place = Path(value).expanduser()
            is_other = place.exists() and not place.is_file() and not place.is_dir()
        except (OSError, RuntimeError, ValueError):  # no path at all
            continue
        if is_other:
            raise UsageError(f"{path} names {name} {_short(value)}, which is neither a plain file nor a folder")


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(f"{name}.{key}" if name else str(key), each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(name, each)
    elif isinstance(value, str):
        yield name, value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
