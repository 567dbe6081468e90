"""An analysis as files: each table as CSV and JSON, all of them as one Markdown page, ours beside the paper's."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from qilin_rag.analysis.figures import Column, FigureTable, escaped
from qilin_rag.store import write_text

PAGE = "analysis.md"


def write_tables(tables: Sequence[FigureTable], out: Path, label: str, plots: Sequence[str] = ()) -> None:
    """`KEY.csv` and `KEY.json` of each table and the page, into a folder that is there; plots are named KEY.svg."""
    for table in tables:
        write_text(out / f"{table.key}.csv", as_csv(table))
        write_text(out / f"{table.key}.json", json.dumps(table.model_dump(), ensure_ascii=False, indent=2) + "\n")
    write_text(out / PAGE, as_page(tables, label, plots))


def as_csv(table: FigureTable) -> str:
    """One line a value: row, column, value, the paper's value, the difference; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "value", "paper", "difference"])
    for row, values in zip(table.rows, table.values, strict=True):
        for column, value in zip(table.columns, values, strict=True):
            printed = table.printed(row, column.name)
            difference = None if value is None or printed is None else value - printed
            writer.writerow([row, column.name, *("" if x is None else repr(x) for x in (value, printed, difference))])
    return text.getvalue()


def as_page(tables: Sequence[FigureTable], label: str, plots: Sequence[str]) -> str:
    """The page; a value that is None is a dash, and what is lacking is said under the table."""
    parts = [f"# {escaped(label)}", "", "Each cell: this data; in brackets the paper's value and the difference to it."]
    for table in tables:
        parts += ["", f"## {table.title}", ""]
        if table.key in plots:
            parts += [f"![{table.title}]({table.key}.svg)", ""]
        parts += _rows(table)
        parts += [line for note in table.notes for line in ("", note)]
        if missing := table.missing():
            parts += ["", f"This data can't give ({table.why_missing}): {'; '.join(map(escaped, missing))}."]
    return "\n".join(parts) + "\n"


def _rows(table: FigureTable) -> list[str]:
    lines = ["| | " + " | ".join(column.name for column in table.columns) + " |"]
    lines.append("|---" + "|---:" * len(table.columns) + "|")
    for row, values in zip(table.rows, table.values, strict=True):
        cells = [
            _cell(value, table.printed(row, column.name), column)
            for column, value in zip(table.columns, values, strict=True)
        ]
        lines.append(f"| {escaped(row)} | {' | '.join(cells)} |")
    return lines


def _cell(value: float | None, printed: float | None, column: Column) -> str:
    own = "-" if value is None else written(value, column)
    if printed is None:
        return own
    if value is None:
        return f"{own} ({written(printed, column)})"
    return f"{own} ({written(printed, column)}; {written(value - printed, column, signed=True)})"


def written(value: float, column: Column, signed: bool = False) -> str:
    """A value as its column has it: 1,234, 3.210, or 12.34%."""
    sign = "+" if signed else ""
    match column.unit:
        case "count":
            return f"{value:{sign},.0f}"
        case "share":
            return f"{100 * value:{sign}.2f}%"
    return f"{value:{sign}.3f}"
