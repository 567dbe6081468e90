"""Plots of the tables, as PNG and SVG, in colours for colour-blind readers and with a Chinese font."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qilin_rag.analysis.figures import FigureTable
from qilin_rag.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

# Okabe and Ito (2008)
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
_FONT_FILES = ("notosanscjk", "notosanssc", "sourcehansans", "wqy-", "msyh", "simhei", "pingfang", "hiragino sans gb")
_LINES = "figure3"
_NOT_PLOTTED = ("table2",)


def draw_tables(tables: Sequence[FigureTable], out: Path) -> list[str]:
    """Draw `KEY.png` and `KEY.svg` of each table with shares into an existing folder; return the keys."""
    from matplotlib import pyplot

    drawn = []
    with plotting():
        for table in tables:
            shares = [i for i, column in enumerate(table.columns) if column.unit == "share"]
            has_values = any(values[i] is not None for values in table.values for i in shares)
            if table.key in _NOT_PLOTTED or not shares or not has_values:
                continue
            is_line = table.key.startswith(_LINES)
            size = (7.0, 4.0) if is_line else (7.0, 1.2 + 0.42 * len(table.rows) * max(1, len(shares) / 3))
            figure, axes = pyplot.subplots(figsize=size, layout="constrained")
            (_lines if is_line else draw_bars)(axes, table, shares)
            figure.suptitle(table.title, x=0.01, ha="left", fontsize=11)
            figure.legend(frameon=False, loc="outside right upper")
            axes.spines[["top", "right"]].set_visible(False)
            save(figure, out / table.key)
            pyplot.close(figure)
            drawn.append(table.key)
    return drawn


@contextmanager
def plotting() -> Iterator[None]:
    """Draw plots inside this context without a screen, in a font that has Chinese."""
    import matplotlib

    matplotlib.use("agg")
    with matplotlib.rc_context({"font.family": [*chinese_font(), "DejaVu Sans"], "svg.hashsalt": "qilin_rag"}):
        yield


def save(figure: Any, path: Path) -> None:
    """Save PNG and SVG, with text as outlines for the same look everywhere, and without dates."""
    with atomic_path(path.with_name(f"{path.name}.png")) as png:
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    with atomic_path(path.with_name(f"{path.name}.svg")) as svg:
        figure.savefig(svg, format="svg", metadata={"Date": None})


def chinese_font() -> list[str]:
    """Return a font with Chinese, of the system or of the package mplfonts; log if there is none."""
    from matplotlib import font_manager

    shipped = find_spec("mplfonts")
    folders = [Path(folder) for folder in (shipped and shipped.submodule_search_locations) or []]
    files = [Path(file) for file in sorted(font_manager.findSystemFonts())]
    files += [file for folder in folders for file in sorted((folder / "fonts").glob("NotoSansCJK*"))]
    for name in _FONT_FILES:
        for file in files:
            if file.name.lower().startswith(name) and "bold" not in file.name.lower():
                font_manager.fontManager.addfont(file)
                return [font_manager.FontProperties(fname=file).get_name()]
    logger.warning("no font with Chinese is installed, so Chinese in plots will be boxes: pip install mplfonts")
    return []


def _lines(axes: Axes, table: FigureTable, shares: Sequence[int]) -> None:
    """Draw values by position, one line per column."""
    places = range(len(table.rows))
    for colour, marker, i in zip(COLOURS, "os^", shares, strict=False):
        values = [row[i] for row in table.values]
        points = [(place, 100 * value) for place, value in zip(places, values, strict=True) if value is not None]
        if points:
            positions, shown = zip(*points, strict=True)
            axes.plot(positions, shown, color=colour, marker=marker, label=table.columns[i].name)
    axes.set_xticks(list(places), [plain(row) for row in table.rows])
    axes.set_xlabel("place in the session" if table.key.startswith("figure3b") else "position")
    axes.set_ylabel("%")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)


def draw_bars(axes: Axes, table: FigureTable, shares: Sequence[int]) -> None:
    """Draw bars per row with their 95% intervals, if there are any, and the paper's value as a mark."""
    height = 0.8 / len(shares)
    for colour, order, i in zip(COLOURS[: len(shares)], range(len(shares)), shares, strict=True):
        column = table.columns[i].name
        heights = [place + (order - (len(shares) - 1) / 2) * height for place in range(len(table.rows))]
        values = [row[i] for row in table.values]
        lengths = [100 * (value or 0) for value in values]
        axes.barh(heights, lengths, height=height * 0.9, color=colour, label=column if len(shares) > 1 else "this data")
        for row, (y, value) in enumerate(zip(heights, values, strict=True)):
            if value is None:
                axes.text(0, y, " no data", va="center", fontsize=7, color=GREY)
            elif interval := table.interval(row, i):
                axes.plot([100 * end for end in interval], [y, y], color="black", linewidth=1, solid_capstyle="butt")
        printed = [(table.printed(row, column), y) for row, y in zip(table.rows, heights, strict=True)]
        marks = [(100 * value, y) for value, y in printed if value is not None]
        if marks:
            across, up = zip(*marks, strict=True)
            name = None if order else "paper (Qilin)"
            axes.scatter(across, up, marker="|", s=160 * height + 60, color="black", zorder=3, label=name)
    axes.set_yticks(range(len(table.rows)), [plain(row) for row in table.rows])
    axes.invert_yaxis()
    axes.set_xlabel("%")
    axes.grid(axis="x", alpha=0.3)


def plain(text: str) -> str:
    """Return text of the data literally, without formulas between dollar signs."""
    return text.replace("$", r"\$")
