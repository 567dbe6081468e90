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
PARTS: dict[str, Callable[[], str]] = {
    "api": api.api,
    "commands": commands.commands,
    "details_fields": columns.details_fields,
    "engines": settings.engines,
    "judge_metrics": metrics.judge_metrics,
    "llms": settings.llms,
    "log_settings": settings.log_settings,
    "metric_settings": settings.metrics,
    "metrics": metrics.metrics,
    "note_columns": columns.note_columns,
    "presets": settings.presets,
    "prompts": settings.prompts,
    "qilin_tables": columns.qilin_tables,
    "rankers": settings.rankers,
    "ranking_metrics": metrics.ranking_metrics,
    "request_columns": columns.request_columns,
    "retrievers": settings.retrievers,
    "run_settings": settings.run_settings,
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


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the parts that a page asks for, and point links to notebooks at their pages."""
    return filled(_NOTEBOOK_LINK.sub(r"\1.md", markdown))


def filled(markdown: str) -> str:
    """Return a page with the parts that it asks for; a part that does not exist is a KeyError."""
    shown: set[type] = set()

    def part(found: re.Match[str]) -> str:
        kind, name = found.groups()
        return fields(name, shown) if kind == "fields" else PARTS[name]()

    return _PART.sub(part, markdown)
