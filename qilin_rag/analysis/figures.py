"""Tables of figures beside the paper's: values by row and column, None if the data does not give one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from qilin_rag.core.types import Frozen

Unit = Literal["count", "number", "share"]


class Column(Frozen):
    """A column, and the format of its values."""

    name: str
    unit: Unit = "number"


class FigureTable(Frozen):
    """A table of figures, with the paper's values.

    Attributes:
        values: The values, `values[row][column]`.
        ci95: The 95% intervals of the values, if there are any.
        paper: The printed values of the paper.
        why_missing: The reason why a value is None.
    """

    key: str
    title: str
    columns: list[Column]
    rows: list[str]
    values: list[list[float | None]]
    ci95: list[list[tuple[float, float] | None]] = []
    paper: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    why_missing: str = "nothing to count"

    def printed(self, row: str, column: str) -> float | None:
        """Return the paper's value."""
        return self.paper.get(row, {}).get(column)

    def interval(self, row: int, column: int) -> tuple[float, float] | None:
        """Return the 95% interval of a value."""
        return self.ci95[row][column] if self.ci95 else None

    def missing(self) -> list[str]:
        """Return the values that this data does not give, as `row: columns`."""
        found = []
        for row, values in zip(self.rows, self.values, strict=True):
            lacking = [column.name for column, value in zip(self.columns, values, strict=True) if value is None]
            if lacking:
                found.append(f"{row}: {', '.join(lacking)}")
        return found


def table(
    key: str,
    title: str,
    columns: Sequence[Column],
    rows: Mapping[str, Sequence[float | None]],
    paper: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
    why_missing: str = "nothing to count",
) -> FigureTable:
    """Return a table made of rows by name."""
    return FigureTable(
        key=key,
        title=title,
        columns=list(columns),
        rows=list(rows),
        values=[[None if value is None else float(value) for value in values] for values in rows.values()],
        paper={row: dict(values) for row, values in (paper or {}).items()},
        notes=list(notes),
        why_missing=why_missing,
    )


def ratio(part: float, whole: float) -> float | None:
    """Return part over whole; None if the whole is 0."""
    return float(part) / float(whole) if whole else None


def escaped(text: str) -> str:
    """Return text of the data for Markdown, without markup."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]()<>#+-!|~&$" else char for char in " ".join(text.split()))
