"""Texts of the code as HTML: no character of a docstring or of a help text can break a table or a page."""

from __future__ import annotations

import html
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples):$", re.MULTILINE)
_PREFORMATTED = "\b\n"
"""Begins a paragraph that click prints as it is."""


def inline(text: str) -> str:
    """Return one text as HTML on one line; what stands between backticks becomes code."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # a backtick without a partner
        return html.escape("`".join(parts), quote=False)
    return "".join(f"<code>{_escaped(part)}</code>" if i % 2 else _escaped(part) for i, part in enumerate(parts))


def code(text: str) -> str:
    """Return one text as code on one line; an empty one is nothing."""
    return f"<code>{_escaped(text)}</code>" if text else ""


def block(text: str) -> str:
    """Return lines as they are, as a block of code."""
    return f"<pre><code>{_escaped(textwrap.dedent(text).strip())}</code></pre>".replace("\n", "&#10;")


def paragraphs(text: str) -> str:
    """Return the paragraphs of a text as HTML; those that click prints as they are become code."""
    pieces = re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n"))
    return "\n".join(
        block(piece.removeprefix(_PREFORMATTED)) if piece.startswith("\b") else f"<p>{inline(piece)}</p>"
        for piece in pieces
        if piece.strip()
    )


def docstring(cls: type) -> str:
    """Return the docstring of a class without its sections, such as `Args:`."""
    return paragraphs(_SECTION.split(inspect.cleandoc(cls.__doc__ or ""))[0])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, one row a line; its cells are HTML already. On narrow screens its rows are stacked."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="records">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>'
    )


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
