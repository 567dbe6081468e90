"""Write the report: one HTML file that opens from disk, makes no network request, and shows all content as text.

Three things keep hostile notes and answers harmless, and each would do alone. Data is in blocks that a browser does not
run and in which no tag can end. The page makes text nodes of it, never markup. Its policy allows only its own script
and style (by their hashes), and no request at all. Images of notes, if it has any, were encoded anew, and are data in
the page or files beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from qilin_rag.core.files import atomic_path, write_text
from qilin_rag.reports.contents import Contents

_PARTS_AT_ONCE = 32
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|let|function|async function) )", re.MULTILINE)
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def write_report(contents: Contents, out: Path) -> None:
    """Write the page in one step, after the images that it links to."""
    if contents.album.files:
        folder = images_folder(out)
        folder.mkdir(exist_ok=True)
        for name, content in contents.album.files.items():
            with atomic_path(folder / name) as path:
                path.write_bytes(content)
    write_text(out, _parts(contents))


def images_folder(out: Path) -> Path:
    """Return the folder of the images that a page links to: beside it, so that both can be moved together."""
    return out.with_name(f"{out.stem}_images")


def as_html(contents: Contents) -> str:
    """Return the whole page. The program comes before the blocks, so that it works while they are still being read."""
    return "".join(_parts(contents))


def _parts(contents: Contents) -> Iterable[str]:
    script = bundle("report")
    style = asset("style.css")
    images = f"img-src {contents.album.policy}; " if contents.album.policy else ""
    sources = f"script-src {source_hash(script)}; style-src {source_hash(style)}"
    parts = template("page.html.j2").stream(
        policy=f"default-src 'none'; {sources}; {images}base-uri 'none'; form-action 'none'",
        style=Markup(style),
        body=Markup(asset("results.html")),
        script=Markup(script),
        index=Markup(as_json_block(contents.overview)),
        blocks=contents.blocks,
    )
    parts.enable_buffering(_PARTS_AT_ONCE)
    return parts


def template(name: str) -> jinja2.Template:
    """Return a file of the folder `page` as a template that escapes what it is given."""
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(asset(name))


def bundle(entry: str) -> str:
    """Return a module of the page and all that it imports as one plain script; a file on disk can load no modules.

    Args:
        entry: the name of the module that runs last.

    Returns:
        The script: each module after those that it imports. They share one scope, so no name is declared twice.
    """
    sources: dict[str, str] = {}
    _add_module(entry, sources)
    return '"use strict";\n(() => {\n' + "\n".join(sources.values()) + "})();\n"


def _add_module(name: str, sources: dict[str, str]) -> None:
    source = asset(f"{name}.js")
    for imported in _IMPORT.findall(source):
        if imported not in sources:
            _add_module(imported, sources)
    sources[name] = _EXPORT.sub("", _IMPORT.sub("", source))


def as_json_block(value: Any) -> str:
    """Return JSON for a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_ESCAPED)


def source_hash(source: str) -> str:
    """Return a script or style as the policy of a page names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def asset(name: str) -> str:
    """Return the text of a file of the folder `page`."""
    return (files("qilin_rag.reports") / "page" / name).read_text(encoding="utf-8")
