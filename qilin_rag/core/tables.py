"""Tables for notebooks: pandas frames (if pandas is installed), and HTML in which every cell is escaped."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qilin_rag.core.extras import require
from qilin_rag.core.types import MetricSummary

if TYPE_CHECKING:
    from pandas import DataFrame

FIGURES = {"value", "ci95_low", "ci95_high", "stderr", "value_unscored_as_zero"}
FIGURE_COLUMNS = ("metric", "value", "95% interval", "scored", "signature")


def as_frame(
    rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]], numbers: Collection[str] = ()
) -> DataFrame:
    """Return records, or columns by name, as a pandas DataFrame.

    Args:
        rows: The records, or the columns.
        numbers: Columns of numbers, which hold NaN for unknown values.

    Raises:
        UsageError: if pandas is not installed.
    """
    require("pandas", "pandas", what="to_frame")
    from pandas import DataFrame

    frame = DataFrame(rows)
    return frame.astype({name: float for name in frame if name in numbers})


def as_html(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as HTML. Every cell is escaped, because names and answers come from files."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figure_cells(name: str, summary: MetricSummary) -> tuple[str, ...]:
    """Return the cells of one figure, in the order of `FIGURE_COLUMNS`."""
    return (
        name,
        "unscored" if summary.value is None else f"{summary.value:.4f}",
        f"{summary.ci95[0]:.4f} .. {summary.ci95[1]:.4f}"
        if summary.ci95
        else f"none: {summary.no_interval or 'unscored'}",
        f"{summary.n}/{summary.n + summary.n_unscored}",
        summary.signature,
    )


def figure_record(summary: MetricSummary) -> dict[str, Any]:
    """Return one figure as a flat record."""
    low, high = summary.ci95 or (None, None)
    return {
        "value": summary.value,
        "ci95_low": low,
        "ci95_high": high,
        "stderr": summary.stderr,
        "n": summary.n,
        "n_unscored": summary.n_unscored,
        "value_unscored_as_zero": summary.value_unscored_as_zero,
        "no_interval": summary.no_interval,
        "signature": summary.signature,
    }
