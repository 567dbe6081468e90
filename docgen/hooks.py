"""Hooks of mkdocs: fill the generated parts of the reference, and turn notebooks into pages.

A page asks for a part by a comment on a line of its own: `<!-- generated: commands -->`, or, for the fields of a model,
`<!-- fields: module:Class -->`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docgen import api, columns, commands, metrics, settings
from docgen.files import fields

_PART = re.compile(r"^<!-- (generated|fields): ([\w.:]+) -->$", re.MULTILINE)
_NOTEBOOK_LINK = re.compile(r"(\]\((?!\w+:)[^)\s]*)\.ipynb(?=[)#])")
_NEEDS = re.compile(r'title="needs ([^"]+)"')
_CHINESE = {
    "a GPU": "GPU",
    "a model": "模型",
    "an API key": "API key",
    "the hub": "Hugging Face hub",
    "the network": "网络",
}
PARTS: dict[str, Callable[[], str]] = {
    "api": api.api,
    "commands": commands.commands,
    "details_fields": columns.details_fields,
    "engines": settings.engines,
    "export_formats": settings.export_formats,
    "judge_metrics": metrics.judge_metrics,
    "llms": settings.llms,
    "log_settings": settings.log_settings,
    "metric_settings": settings.metrics,
    "metrics": metrics.metrics,
    "note_columns": columns.note_columns,
    "nugget_metrics": metrics.nugget_metrics,
    "presets": settings.presets,
    "prompts": settings.prompts,
    "qilin_tables": columns.qilin_tables,
    "queries": settings.queries,
    "rankers": settings.rankers,
    "ranking_metrics": metrics.ranking_metrics,
    "pooled_metrics": metrics.pooled_metrics,
    "request_columns": columns.request_columns,
    "retrievers": settings.retrievers,
    "run_settings": settings.run_settings,
    "claim_metrics": metrics.claim_metrics,
    "support_metrics": metrics.support_metrics,
    "user_columns": columns.user_columns,
}


def on_config(config: Any) -> Any:
    """Keep Chinese in the addresses of headings, and the builder's own default data set out of the pages."""
    from pymdownx.slugs import slugify

    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    os.environ.pop("QILIN_RAG_DATA", None)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Put a page in the place of each notebook."""
    from docgen import notebooks

    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            for page in notebooks.pages(Path(file.abs_src_path), file.src_uri, config):
                files.append(page)
    return files


def on_pre_page(page: Any, config: Any, **_: Any) -> Any:
    """Have the links beside headings named in the language of the page."""
    config.mdx_configs["toc"]["permalink_title"] = "本节的链接" if _is_chinese(page) else "Permanent link"
    return page


def on_page_markdown(markdown: str, page: Any = None, **_: Any) -> str:
    """Fill the parts that a page asks for, point links to notebooks at their pages, and translate titles of blocks."""
    if page and _is_chinese(page):
        markdown = _NEEDS.sub(lambda found: f'title="需要 {_CHINESE.get(found[1], found[1])}"', markdown)
    return filled(_NOTEBOOK_LINK.sub(r"\1.md", markdown))


def on_page_context(context: Any, page: Any, config: Any, **_: Any) -> Any:
    """Have the theme's own words in the language of the page: the template reads the theme's setting for each."""
    is_chinese = _is_chinese(page)
    config.theme["language"] = "zh" if is_chinese else "en"
    names = ("深色", "浅色") if is_chinese else ("Dark", "Light")
    for palette, name in zip(config.theme["palette"], names, strict=True):
        palette["toggle"]["name"] = name
    return context


def _is_chinese(page: Any) -> bool:
    return str(page.file.src_uri).startswith("zh/")


def filled(markdown: str) -> str:
    """Return a page with the parts that it asks for; a part that does not exist is a KeyError."""
    shown: set[type] = set()

    def part(found: re.Match[str]) -> str:
        kind, name = found.groups()
        return fields(name, shown) if kind == "fields" else PARTS[name]()

    return _PART.sub(part, markdown)
