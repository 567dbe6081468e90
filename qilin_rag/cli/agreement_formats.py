"""Options of the `agreement` commands that make a table, and how the table is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.core.text import printable

if TYPE_CHECKING:
    from qilin_rag.reports.sections import Section


class AgreementFormat(StrEnum):
    """Formats of the table."""

    table = "table"
    md = "md"
    csv = "csv"
    latex = "latex"


class AgreementStatistic(StrEnum):
    """Statistics by which measures are compared."""

    pearson = "pearson"
    spearman = "spearman"
    accuracy = "accuracy"


TableFormat = Annotated[AgreementFormat, typer.Option("--format", help="Format of the table.")]
ComparedBy = Annotated[AgreementStatistic, typer.Option(help="Statistic by which measures are compared and ranked.")]
TableSeed = Annotated[int, typer.Option(min=0, help="Seed of the intervals, tests and permuted answers.")]


def print_table(
    output_format: AgreementFormat,
    sections: Callable[[str], Iterable[Section]],
    records: Callable[[], list[dict[str, object]]],
) -> None:
    """Print a table in a format.

    Args:
        output_format: The format.
        sections: Returns the sections, given the text between a figure and its interval.
        records: Returns the flat records of CSV.
    """
    match output_format:
        case AgreementFormat.table:
            ui.print_sections(sections("\n"))
            return
        case AgreementFormat.csv:
            from qilin_rag.core.spreadsheet import csv_of_records

            text = csv_of_records(records())
        case AgreementFormat.md:
            from qilin_rag.reports.sections import as_markdown

            text = as_markdown(sections(" "))
        case AgreementFormat.latex:
            from qilin_rag.reports.sections import as_latex

            text = as_latex(sections(" "))
    typer.echo(printable(text).rstrip("\n"))
