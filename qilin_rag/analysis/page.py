"""An analysis as files: each table as CSV and JSON, and all on one Markdown page, ours beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from qilin_rag.analysis.figures import Column, FigureTable, escaped
from qilin_rag.core.files import write_text
from qilin_rag.core.spreadsheet import csv_text

PAGE = "analysis.md"
_PAPER = "paper (Qilin)"
LEAD = "Each cell: this data; in brackets the value that the paper prints for Qilin, and the difference to it."


def lead_of(why_other: str | None) -> str:
    """Return what the cells of the paper's tables are, and whether the data is Qilin; `why_other` says why not."""
    if why_other is None:
        return f"{LEAD} This data is Qilin, by its number of notes and by known rows."
    return f"This data is not known to be Qilin ({why_other}), so the paper's values are for another data set. {LEAD}"


def write_tables(
    tables: Sequence[FigureTable], out: Path, label: str, plots: Sequence[str] = (), lead: str = LEAD
) -> None:
    """Write `KEY.csv` and `KEY.json` of each table and the page to an existing folder; plots are named KEY.svg."""
    write_figures(tables, out)
    write_text(out / PAGE, as_page(tables, label, plots, lead))


def write_figures(tables: Sequence[FigureTable], out: Path) -> None:
    """Write `KEY.csv` and `KEY.json` of each table to an existing folder."""
    for table in tables:
        write_text(out / f"{table.key}.csv", as_csv(table))
        write_text(out / f"{table.key}.json", json.dumps(table.model_dump(), ensure_ascii=False, indent=2) + "\n")


def as_csv(table: FigureTable) -> str:
    """Return one line per value: row, column, value, interval, the paper's value, difference; empty if unknown."""
    rows = []
    for i, row in enumerate(table.rows):
        for j, column in enumerate(table.columns):
            value, printed = table.values[i][j], table.printed(row, column.name)
            difference = None if value is None or printed is None else value - printed
            rows.append([row, column.name, value, *(table.interval(i, j) or (None, None)), printed, difference])
    return csv_text(["row", "column", "value", "low", "high", _PAPER, "difference"], rows)


def as_page(tables: Sequence[FigureTable], label: str, plots: Sequence[str], lead: str = LEAD) -> str:
    """Return the page; a missing value is a dash, and the reason is under the table."""
    return "\n".join([f"# {escaped(label)}", "", lead, *table_sections(tables, plots)]) + "\n"


def table_sections(tables: Sequence[FigureTable], plots: Sequence[str]) -> list[str]:
    """Return the lines of a page with these tables, their plots and their notes."""
    parts: list[str] = []
    for table in tables:
        parts += ["", f"## {table.title}", ""]
        if table.key in plots:
            parts += [f"![{table.title}]({table.key}.svg)", ""]
        parts += _rows(table)
        parts += [line for note in table.notes for line in ("", note)]
        if missing := table.missing():
            parts += ["", f"This data can't give ({table.why_missing}): {'; '.join(map(escaped, missing))}."]
    return parts


def _rows(table: FigureTable) -> list[str]:
    lines = ["| | " + " | ".join(column.name for column in table.columns) + " |"]
    lines.append("|---" + "|---:" * len(table.columns) + "|")
    for i, row in enumerate(table.rows):
        cells = [_cell(table, i, j) for j in range(len(table.columns))]
        lines.append(f"| {escaped(row)} | {' | '.join(cells)} |")
    return lines


def _cell(table: FigureTable, row: int, column: int) -> str:
    """Return the value with its interval; in brackets the paper's and the difference to it."""
    unit, value = table.columns[column], table.values[row][column]
    text = "-" if value is None else written(value, unit)
    if interval := table.interval(row, column):
        text += f" [{written(interval[0], unit)}, {written(interval[1], unit)}]"
    printed = table.printed(table.rows[row], unit.name)
    if printed is None:
        return text
    difference = "" if value is None else f"; {written(value - printed, unit, signed=True)}"
    return f"{text} ({written(printed, unit)}{difference})"


def written(value: float, column: Column, signed: bool = False) -> str:
    """Return a value in the format of its column: 1,234, 3.210, or 12.34%."""
    sign = "+" if signed else ""
    match column.unit:
        case "count":
            return f"{value:{sign},.0f}"
        case "share":
            return f"{100 * value:{sign}.2f}%"
    return f"{value:{sign}.3f}"
