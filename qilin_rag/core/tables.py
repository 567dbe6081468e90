"""Tables for notebooks: pandas frames, where pandas is installed, and HTML in which every cell is escaped."""

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
        numbers: Columns of numbers: where nothing is known, NaN.

    Raises:
        UsageError: pandas is not installed.
    """
    require("pandas", "pandas", what="to_frame")
    from pandas import DataFrame

    frame = DataFrame(rows)
    return frame.astype({name: float for name in frame if name in numbers})


def as_html(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as HTML; names and answers come from files, so nothing in a cell counts as markup."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figure_cells(name: str, of: MetricSummary) -> tuple[str, ...]:
    """Return the cells of one figure, as `FIGURE_COLUMNS` has them."""
    return (
        name,
        "unscored" if of.value is None else f"{of.value:.4f}",
        f"{of.ci95[0]:.4f} .. {of.ci95[1]:.4f}" if of.ci95 else f"none: {of.no_interval or 'unscored'}",
        f"{of.n}/{of.n + of.n_unscored}",
        of.signature,
    )


def figure_record(of: MetricSummary) -> dict[str, Any]:
    """Return one figure as a flat record."""
    low, high = of.ci95 or (None, None)
    return {
        "value": of.value,
        "ci95_low": low,
        "ci95_high": high,
        "stderr": of.stderr,
        "n": of.n,
        "n_unscored": of.n_unscored,
        "value_unscored_as_zero": of.value_unscored_as_zero,
        "no_interval": of.no_interval,
        "signature": of.signature,
    }
