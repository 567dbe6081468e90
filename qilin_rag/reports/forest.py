"""Lay out a forest plot: a point with its 95% interval in each row, beside a ceiling and rows that must not win."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Literal, NamedTuple

from qilin_rag.reports.drawing import Band, Drawing, Group, Look, Mark, Shape, Stroke, Words

RowLook = Literal["named", "measure", "sentinel", "ceiling"]
_LEFT, _RIGHT = 0.03, 0.97
_ROW_PX, _TEXT_PX, _GAP_PX = 40, 20, 10
_LABEL_Y, _STRIP_Y, _POINT_Y = 15, 20, 29
_MOST_TICKS = 7
_NARROWEST = 0.05  # between the ends of the axis
_MOST_LABEL_CHARS, _MOST_REASON_CHARS, _MOST_TITLE_CHARS = 28, 31, 84


class ForestRow(NamedTuple):
    """A row of a forest plot.

    Attributes:
        label: Its name.
        value: Its figure; None draws no point.
        ci95: The interval of the figure; None draws none.
        shown: The figure as a text, or why there is none.
        look: How it is drawn: `named` filled, `measure` hollow, `sentinel` as a square, `ceiling` as a bar.
        group: The heading that it is below, together with its neighbours of the same one; empty for none.
    """

    label: str
    value: float | None
    ci95: tuple[float, float] | None
    shown: str
    look: RowLook
    group: str = ""


class Forest(NamedTuple):
    """A forest plot.

    Attributes:
        name: The name of what is shown.
        axis: The name of the figure.
        rows: The rows from top to bottom.
        reference: The value of a figure that says nothing, such as 0 for a correlation; None if there is none.
        meanings: What each look means.
        ceiling: The row on top, whose figure and interval are drawn through all rows; None without one.
    """

    name: str
    axis: str
    rows: list[ForestRow]
    reference: float | None
    meanings: Mapping[RowLook, str]
    ceiling: ForestRow | None = None


def forest_drawing(forest: Forest, title: str = "") -> Drawing:
    """Return the drawing of a forest plot.

    Args:
        forest: The plot.
        title: A title above it; empty for none.

    Returns:
        Rows with their labels above the intervals, so that the plot can be as narrow as a phone.
    """
    place = _Axis(forest)
    through = list(_through(forest, place))
    groups, top = [], 0.0
    if title:
        groups.append(Group(top, [Words(_LEFT, 16, _cut(title, _MOST_TITLE_CHARS), is_bold=True)]))
        top += _TEXT_PX + _GAP_PX
    first = top
    rows: list[Group] = []
    shades: list[Shape] = []
    if forest.ceiling:
        rows.append(_row(forest.ceiling, top, place, through))
        top += _ROW_PX
    for number, (heading, members) in enumerate(groupby(forest.rows, key=lambda row: row.group)):
        start = top
        if heading:
            rows.append(Group(top, [Words(_LEFT, 15, heading, "soft")]))
            top += _TEXT_PX
        for row in members:
            rows.append(_row(row, top, place, through))
            top += _ROW_PX
        if heading and number % 2 == 0:
            shades.append(Band(0, start, 1, top, "shade"))
    bands = [
        Band(place.of(row.ci95[0]), first, place.of(row.ci95[1]), top, "ceiling", opacity=0.12)
        for row in _ceilings(forest)
        if row.ci95
    ]
    axis: list[Shape] = [Words(place.of(value), 16, text, "soft", "middle") for value, text in place.ticks]
    axis.append(Words(0.5, 16 + _TEXT_PX, forest.axis, "soft", "middle"))
    groups += [Group(0, [*shades, *bands]), *rows, Group(top, axis)]
    top += 2 * _TEXT_PX + _GAP_PX
    for look, meaning in forest.meanings.items():
        if any(row.look == look and row.value is not None for row in [*forest.rows, *_ceilings(forest)]):
            groups.append(Group(top, [_mark(look, _LEFT + 0.01, 11), Words(_LEFT + 0.04, 15, meaning, "soft")]))
            top += _TEXT_PX
    return Drawing(f"{forest.name}: {forest.axis}", top + _GAP_PX, groups)


class _Axis:
    """Maps values to shares of the width, with round numbers in between."""

    def __init__(self, forest: Forest) -> None:
        rows = [*forest.rows, *_ceilings(forest)]
        values = [end for row in rows if row.value is not None for end in (row.value, *(row.ci95 or ()))]
        values += [] if forest.reference is None else [forest.reference]
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = max((high - low) * 0.04, (_NARROWEST - (high - low)) / 2)
        self._low, self._high = low - room, high + room
        self.ticks = list(self._ticks())

    def of(self, value: float) -> float:
        """Return the share of the width at which a value is drawn."""
        return _LEFT + (value - self._low) / (self._high - self._low) * (_RIGHT - _LEFT)

    def _ticks(self) -> Iterator[tuple[float, str]]:
        rough = (self._high - self._low) / _MOST_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(size for size in (power, 2 * power, 5 * power, 10 * power) if size >= rough * (1 - 1e-9))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        for number in range(math.ceil(self._low / step - 1e-9), math.floor(self._high / step + 1e-9) + 1):
            yield number * step, f"{number * step:.{decimals}f}"


def _ceilings(forest: Forest) -> list[ForestRow]:
    return [forest.ceiling] if forest.ceiling else []


def _through(forest: Forest, place: _Axis) -> Iterator[Shape]:
    """Yield the parts in one row of what runs through all rows: the grid, the ceiling, the value that says nothing.

    They leave out the label, so that it can be read.
    """
    for value, _ in place.ticks:
        yield Stroke(place.of(value), _STRIP_Y, place.of(value), _ROW_PX, "grid")
    if forest.reference is not None:
        at = place.of(forest.reference)
        yield Stroke(at, _STRIP_Y, at, _ROW_PX, "soft", width=1.5)
    for row in _ceilings(forest):
        if row.value is not None:
            yield Stroke(place.of(row.value), _STRIP_Y, place.of(row.value), _ROW_PX, "ceiling", is_dashed=True)


def _row(row: ForestRow, top: float, place: _Axis, behind: list[Shape]) -> Group:
    is_named = row.look == "named"
    look: Look = "named" if is_named else "text"
    shapes = [*behind, Words(_LEFT, _LABEL_Y, _cut(row.label, _MOST_LABEL_CHARS), look, is_bold=is_named)]
    if row.value is None:
        reason = row.shown if len(row.shown) <= _MOST_REASON_CHARS else "no figure"
        shapes.append(Words(_RIGHT, _LABEL_Y, reason, "soft", "end"))
        return Group(top, shapes, f"{row.label}: {row.shown}")
    shapes.append(Words(_RIGHT, _LABEL_Y, row.shown, look, "end"))
    tip = f"{row.label}: {row.value:.4f}"
    if row.ci95:
        low, high = map(place.of, row.ci95)
        shapes.append(Stroke(low, _POINT_Y, high, _POINT_Y, row.look, width=2))
        shapes += [Stroke(end, _POINT_Y - 5, end, _POINT_Y + 5, row.look, width=2) for end in (low, high)]
        tip += f" ({row.ci95[0]:.4f} to {row.ci95[1]:.4f})"
    return Group(top, [*shapes, _mark(row.look, place.of(row.value), _POINT_Y)], tip)


def _mark(look: RowLook, x: float, y: float) -> Mark:
    shape: Literal["dot", "square", "bar"] = "square" if look == "sentinel" else "bar" if look == "ceiling" else "dot"
    return Mark(x, y, shape, look, is_filled=look != "measure")


def _cut(text: str, room: int) -> str:
    """Return a text that fits into so many Latin letters; one of another script counts as two."""
    used = 0
    for at, char in enumerate(text):
        used += 1 if ord(char) < 0x2E80 else 2
        if used > room:
            return f"{text[: max(0, at - 1)]}…"
    return text
