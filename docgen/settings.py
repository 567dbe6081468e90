"""The settings of a run, and of each component that can be named in it, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docgen.html import code, docstring, inline, table
from docgen.models import settings_table
from qilin_rag.cli.catalogue import flag_help
from qilin_rag.config.presets import read_preset
from qilin_rag.config.resources import resource_names, shipped_root
from qilin_rag.config.setting_docs import setting_docs
from qilin_rag.config.spec import RunSpec, settable
from qilin_rag.core.registry import ENGINES, LLMS, QUERIES, RANKERS, RETRIEVERS, SCORERS, Registry
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.prompts.answer import load_prompt
from qilin_rag.reports.exports.table import FORMATS, export_format


def run_settings() -> str:
    """Return the settings of a run that `--set` takes by their own name."""
    docs = [
        doc._replace(meaning=flag_help(doc.name) or doc.meaning)
        for doc in setting_docs(RunSpec, 10_000)
        if doc.name in settable()
    ]
    return settings_table(RunSpec, docs=docs)


def retrievers() -> str:
    """Return the section of each retriever."""
    return _components(RETRIEVERS, "retriever.")


def queries() -> str:
    """Return the section of each query stage."""
    return _components(QUERIES, "query.")


def llms() -> str:
    """Return the section of each class of LLMs."""
    return _components(LLMS, "llm.")


def engines() -> str:
    """Return the section of each engine that serves a model."""
    return _components(ENGINES, "llm.engine.")


def rankers() -> str:
    """Return the section of each ranker."""
    return _components(RANKERS, "ranker.")


def metrics() -> str:
    """Return the section of each metric."""
    return _components(SCORERS, "metrics.{}.")


def export_formats() -> str:
    """Return the settings of each export format."""
    sections = []
    for name in FORMATS:
        cls = type(export_format(name))
        if cls.model_fields:
            sections.append(f"### `{name}` {{ #export-{name} }}\n\n{settings_table(cls)}")
    return "\n\n".join(sections)


def log_settings() -> str:
    """Return the settings by which request logs are read."""
    return settings_table(LogSettings, "log.")


def presets() -> str:
    """Return the presets of LLMs that come with the package."""
    return table(("Preset", "Model", "Address", "Price of a million tokens: prompt, answer"), _preset_rows())


def prompts() -> str:
    """Return the prompts that come with the package."""
    loaded = [load_prompt(str(path)) for path in resource_names("prompts").values() if shipped_root() in path.parents]
    return table(
        ("Prompt", "Language", "Description"),
        [(code(each.name), code(each.language), inline(each.description)) for each in loaded],
    )


def _components(registry: Registry[Any], prefix: str) -> str:
    return "\n\n".join(part for name in registry.table() for part in _component(registry, name, prefix.format(name)))


def _component(registry: Registry[Any], name: str, prefix: str) -> Iterator[str]:
    cls = registry.resolve(name)
    yield f"### `{name}` {{ #{registry.kind}-{name} }}"
    yield docstring(cls)
    if cls.argument:
        yield f"<p>Short form: {code(f'{name}:{cls.argument.upper()}')} sets {code(prefix + cls.argument)}.</p>"
    yield settings_table(cls, prefix) if cls.model_fields else "<p>No settings.</p>"


def _preset_rows() -> Iterator[tuple[str, ...]]:
    for name, path in resource_names("configs/llms").items():
        if shipped_root() not in path.parents:
            continue
        preset = read_preset(path)
        engine = preset.get("engine")
        where = f"started with --serve by {engine['name']}" if engine else "a server of your own"
        price = preset.get("price")
        cost = f"{price['currency']} {price['prompt_per_mtok']:g}, {price['completion_per_mtok']:g}" if price else ""
        address = code(preset["base_url"]) if "base_url" in preset else where
        yield code(name), code(str(preset["model"])), address, cost
