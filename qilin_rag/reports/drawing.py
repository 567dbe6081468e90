"""Draw lines, marks and texts of one layout as SVG, or with matplotlib as PNG and PDF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from qilin_rag.core.files import atomic_path, write_text
from qilin_rag.core.text import clean, printable

Look = Literal["named", "measure", "sentinel", "ceiling", "text", "soft", "grid", "shade"]
INKS: dict[Look, str] = {
    "named": "#11713a",
    "measure": "#4a6fa5",
    "sentinel": "#5a6472",
    "ceiling": "#8a5a00",
    "text": "#1b1f24",
    "soft": "#5a6472",
    "grid": "#d9dde3",
    "shade": "#f2f4f7",
}
"""Colours on white; the style of a page may give others to the classes of these names."""
WIDTH_PX = 640
_FONT_PX = 12
_MARKS = {"dot": (10, 10), "square": (9, 9), "bar": (2, 16)}
"""Width and height in pixels."""
_DPI = 96  # pixels of the layout
_PAPER = "#ffffff"
_NOT_IN_XML = dict.fromkeys((0xFFFE, 0xFFFF), "\ufffd")
_SVG = "http://www.w3.org/2000/svg"


class Stroke(NamedTuple):
    """A line. In all shapes x is a share of the width from 0 to 1, and y is in pixels below the top of the group."""

    x1: float
    y1: float
    x2: float
    y2: float
    look: Look
    width: float = 1
    is_dashed: bool = False


class Band(NamedTuple):
    """A filled rectangle."""

    x1: float
    y1: float
    x2: float
    y2: float
    look: Look
    opacity: float = 1


class Mark(NamedTuple):
    """A filled or hollow dot or square around a point, or an upright bar through it."""

    x: float
    y: float
    shape: Literal["dot", "square", "bar"]
    look: Look
    is_filled: bool = True


class Words(NamedTuple):
    """A text that begins or ends at a point of its baseline, or has it in the middle."""

    x: float
    y: float
    text: str
    look: Look = "text"
    anchor: Literal["start", "middle", "end"] = "start"
    is_bold: bool = False


Shape = Stroke | Band | Mark | Words


class Group(NamedTuple):
    """Shapes that belong together; `tip` is shown to a reader who points at them."""

    top: float
    shapes: list[Shape]
    tip: str = ""


class Drawing(NamedTuple):
    """Groups of shapes, in the order of drawing."""

    name: str
    height: float
    groups: list[Group]


def stacked(drawings: list[Drawing]) -> Drawing:
    """Return one drawing with all of them, one below the other.

    >>> two = stacked([Drawing("one", 10, [Group(0, [])]), Drawing("two", 20, [Group(5, [])])])
    >>> two.height, [group.top for group in two.groups]
    (30.0, [0.0, 15.0])
    """
    groups: list[Group] = []
    height = 0.0
    for drawing in drawings:
        groups += [group._replace(top=group.top + height) for group in drawing.groups]
        height += drawing.height
    return Drawing("; ".join(drawing.name for drawing in drawings), height, groups)


def as_svg(drawing: Drawing, width: int | None = None) -> str:
    """Return a drawing as SVG, with every text escaped.

    Args:
        drawing: The drawing.
        width: The width in pixels; None makes it as wide as its place in a page.
    """
    root = ElementTree.Element("svg", {"xmlns": _SVG, "height": _number(drawing.height), "role": "img"})
    root.set("aria-label", _safe(drawing.name))
    root.set("font-family", "system-ui, sans-serif")
    root.set("font-size", str(_FONT_PX))
    root.set("width", "100%" if width is None else str(width))
    if width is not None:
        root.set("viewBox", f"0 0 {width} {_number(drawing.height)}")
        ElementTree.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": _PAPER})
    for group in drawing.groups:
        place = ElementTree.SubElement(root, "g", {"transform": f"translate(0 {_number(group.top)})"})
        if group.tip:
            ElementTree.SubElement(place, "title").text = _safe(group.tip)
        for shape in group.shapes:
            _add(place, shape, width)
    return ElementTree.tostring(root, encoding="unicode")


def _add(place: ElementTree.Element, shape: Shape, width: int | None) -> None:
    def across(share: float) -> str:
        return f"{100 * share:.3f}%" if width is None else _number(share * width)

    ink = INKS[shape.look]
    match shape:
        case Stroke():
            ends = {"x1": across(shape.x1), "x2": across(shape.x2), "y1": _number(shape.y1), "y2": _number(shape.y2)}
            stroke = {"class": shape.look, "stroke": ink, "stroke-width": _number(shape.width)}
            dashes = {"stroke-dasharray": "5 4"} if shape.is_dashed else {}
            ElementTree.SubElement(place, "line", ends | stroke | dashes)
        case Band():
            corner = {"x": across(shape.x1), "y": _number(shape.y1)}
            size = {"width": across(shape.x2 - shape.x1), "height": _number(shape.y2 - shape.y1)}
            fill = {"class": shape.look, "fill": ink, "fill-opacity": _number(shape.opacity)}
            ElementTree.SubElement(place, "rect", corner | size | fill)
        case Mark():
            look = {"class": shape.look + ("" if shape.is_filled else " hollow"), "stroke": ink, "stroke-width": "2"}
            look |= {"fill": ink if shape.is_filled else _PAPER}
            width_px, height_px = _MARKS[shape.shape]
            if shape.shape == "dot":
                centre = {"cx": across(shape.x), "cy": _number(shape.y), "r": _number(width_px / 2)}
                ElementTree.SubElement(place, "circle", centre | look)
            else:
                size = {"width": _number(width_px), "height": _number(height_px)}
                moved = {"transform": f"translate(-{_number(width_px / 2)} -{_number(height_px / 2)})"}
                corner = {"x": across(shape.x), "y": _number(shape.y)}
                ElementTree.SubElement(place, "rect", corner | size | moved | look)
        case Words():
            start = {"x": across(shape.x), "y": _number(shape.y), "text-anchor": shape.anchor}
            look = {"class": shape.look, "fill": ink} | ({"font-weight": "bold"} if shape.is_bold else {})
            ElementTree.SubElement(place, "text", start | look).text = _safe(shape.text)


def _safe(text: str) -> str:
    """Return a text that XML can hold."""
    return printable(clean(text)).translate(_NOT_IN_XML)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def save(drawing: Drawing, path: Path) -> None:
    """Write a drawing to a file, as its suffix says: `.svg`, or with matplotlib `.png` or `.pdf`."""
    suffix = path.suffix.lower().lstrip(".")
    if suffix == "svg":
        write_text(path, as_svg(drawing, WIDTH_PX) + "\n")
        return
    from matplotlib.figure import Figure

    from qilin_rag.analysis.plots import plotting

    with plotting():
        figure = Figure(figsize=(WIDTH_PX / _DPI, drawing.height / _DPI), dpi=_DPI)
        axes: Any = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 1), ylim=(drawing.height, 0))
        axes.set_axis_off()
        for order, (top, shape) in enumerate(_placed(drawing)):
            _plot(axes, top, shape, order)
        dates: dict[str, Any] = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=2 * _DPI, metadata=dates)


def _placed(drawing: Drawing) -> Iterator[tuple[float, Shape]]:
    for group in drawing.groups:
        yield from ((group.top, shape) for shape in group.shapes)


def _plot(axes: Any, top: float, shape: Shape, order: int) -> None:
    from qilin_rag.analysis.plots import plain

    ink, points_per_px = INKS[shape.look], 72 / _DPI
    match shape:
        case Stroke():
            style = {"linestyle": (0, (4, 3)) if shape.is_dashed else "-", "solid_capstyle": "butt", "zorder": order}
            ends = [shape.x1, shape.x2], [top + shape.y1, top + shape.y2]
            axes.plot(*ends, color=ink, linewidth=shape.width * points_per_px, **style)
        case Band():
            from matplotlib.patches import Rectangle

            corner, across, down = (shape.x1, top + shape.y1), shape.x2 - shape.x1, shape.y2 - shape.y1
            fill = {"facecolor": ink, "alpha": shape.opacity, "linewidth": 0, "zorder": order}
            axes.add_patch(Rectangle(corner, across, down, **fill))
        case Mark():
            size = max(_MARKS[shape.shape]) * points_per_px
            inside, edge = ink if shape.is_filled else _PAPER, 3 if shape.shape == "bar" else 1.5
            look = {"color": ink, "markerfacecolor": inside, "markersize": size, "markeredgewidth": edge}
            marker = {"dot": "o", "square": "s", "bar": "|"}[shape.shape]
            axes.plot([shape.x], [top + shape.y], marker=marker, zorder=order, **look)
        case Words():
            align = {"start": "left", "middle": "center", "end": "right"}[shape.anchor]
            weight = "bold" if shape.is_bold else "normal"
            look = {"color": ink, "fontsize": _FONT_PX * points_per_px, "fontweight": weight, "zorder": order}
            axes.text(shape.x, top + shape.y, plain(_safe(shape.text)), ha=align, va="baseline", **look)
