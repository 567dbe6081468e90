"""Write sections as one HTML page that opens from disk: no script, no request, and all content as text.

Its policy allows only its own style, by its hash, and pictures inside the page, so that markup in a name could do
nothing if it got through.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping

from markupsafe import Markup

from qilin_rag.core.text import clean, printable
from qilin_rag.reports.drawing import as_svg
from qilin_rag.reports.forest import forest_drawing
from qilin_rag.reports.html import asset, source_hash, template
from qilin_rag.reports.sections import Section


def as_page(
    title: str,
    sections: Iterable[Section],
    chinese: Mapping[str, str] | None = None,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """Return the page: in each section its lines, its plot, and its table.

    Args:
        title: The title of the page.
        sections: The sections. If several have plots that can name a row, their first lines are above them all.
        chinese: The Chinese of texts. With it the page is in both languages, and a box on top changes between them.
        pictures: SVG files by the title of the section that shows them.
    """
    shown = list(sections)
    style = asset("style.css") + asset("sections.css")
    images = "img-src data:; " if pictures else ""
    page = template("sections.html.j2").render(
        policy=f"default-src 'none'; style-src {source_hash(style)}; {images}base-uri 'none'; form-action 'none'",
        style=Markup(style),
        title=title,
        sections=shown,
        summary=[(at, each) for at, each in enumerate(shown, start=1) if each.plot and "named" in each.plot.meanings],
        chinese=chinese or {},
        pictures={name: base64.b64encode(svg.encode()).decode() for name, svg in (pictures or {}).items()},
        drawings=[Markup(as_svg(forest_drawing(each.plot))) if each.plot else "" for each in shown],
    )
    return printable(clean(page))
