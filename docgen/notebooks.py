"""Notebooks as pages: their text, code and stored outputs as Markdown; nothing is executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

_STYLE_OF_FRAMES = re.compile(r'<style scoped>.*?</style>\n?|(?<=<table) border="1" class="dataframe"', re.DOTALL)
"""What pandas gives its tables, which then miss the style of the site, and are cut off on narrow screens."""


def pages(path: Path, src_uri: str, config: Any) -> Iterator[File]:
    """Yield the page of a notebook, and the pictures in it, which are beside it under names of its own."""
    uri = PurePosixPath(src_uri)
    names = {"unique_key": f"{uri.stem}_files", "output_files_dir": f"{uri.stem}_files"}
    body, resources = MarkdownExporter().from_filename(str(path), resources=names)
    page = _STYLE_OF_FRAMES.sub("", body)
    yield File.generated(config, str(uri.with_suffix(".md")), content=page)
    for name, content in resources.get("outputs", {}).items():
        yield File.generated(config, str(uri.parent / name), content=content)
