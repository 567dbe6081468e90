"""Options of the `agreement` commands that make tables, and how these are shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.table_formats import TableFormat, put_out
from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.text import printable

if TYPE_CHECKING:
    from qilin_rag.reports.sections import Section

logger = logging.getLogger(__name__)

_PLOTS = ("svg", "png", "pdf")


class AgreementStatistic(StrEnum):
    """Statistics by which measures are compared."""

    pearson = "pearson"
    spearman = "spearman"
    accuracy = "accuracy"


ComparedBy = Annotated[AgreementStatistic, typer.Option(help="Statistic by which measures are compared and ranked.")]
TableSeed = Annotated[int, typer.Option(min=0, help="Seed of the intervals, tests and permuted answers.")]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", help="Draw the figures with their intervals, too, to this .svg, .png or .pdf file."),
]


class Output(NamedTuple):
    """The form of the tables, and the files that they and their plots are written to."""

    form: TableFormat
    out: Path | None
    plot: Path | None


class Result(NamedTuple):
    """The findings of a command in all forms in which they can be shown.

    Attributes:
        title: The title of a page.
        sections: Returns the sections, given the text between a figure and its interval.
        records: Returns flat records for CSV.
        document: Returns plain data for JSON.
    """

    title: str
    sections: Callable[[str], Iterable[Section]]
    records: Callable[[], list[dict[str, object]]]
    document: Callable[[], Any]


def set_up_output(form: TableFormat, as_json: bool, out: Path | None, plot: Path | None, quiet: bool) -> Output:
    """Check, before any work is done, how a table is to be shown, and set up the logs."""
    from qilin_rag.core.files import check_out

    if as_json and form not in (TableFormat.table, TableFormat.json):
        raise UsageError(f"--json and --format {form.value} are two formats; leave one out")
    form = TableFormat.json if as_json else form
    ui.set_up_logs(quiet or form is TableFormat.json)
    if out is not None:
        check_out(out)
    if plot is not None:
        _check_plot(plot, out)
    return Output(form, out, plot)


def _check_plot(plot: Path, out: Path | None) -> None:
    from qilin_rag.core.files import check_out

    suffix = plot.suffix.lower().lstrip(".")
    if suffix not in _PLOTS:
        raise UsageError(f"--plot {plot} must end in {', '.join(f'.{each}' for each in _PLOTS)}")
    if out is not None and out.resolve() == plot.resolve():
        raise UsageError(f"--out and --plot are one file, {plot}; name another one for the plot")
    check_out(plot, "--plot")
    if suffix != "svg":
        require("analysis", "matplotlib", what=f"--plot FILE.{suffix} (FILE.svg does not)")


def show_result(found: Result, output: Output) -> None:
    """Print or write the tables in their format, and draw the plots if a file is named.

    Args:
        found: What is shown.
        output: The form and the files.
    """
    if output.plot is not None:
        _draw(found.sections(" "), output.plot)
    if output.form is TableFormat.table and output.out is None:
        ui.print_sections(found.sections("\n"))
        return
    text = _text_of(found, output.form)
    put_out(text if output.form is TableFormat.table else printable(text), output.out)


def _text_of(found: Result, form: TableFormat) -> str:
    match form:
        case TableFormat.table:
            return ui.sections_as_text(found.sections("\n"))
        case TableFormat.md:
            from qilin_rag.reports.sections import as_markdown

            return as_markdown(found.sections(" "))
        case TableFormat.csv:
            from qilin_rag.core.spreadsheet import csv_of_records

            return csv_of_records(found.records())
        case TableFormat.json:
            return ui.as_json(found.document())
        case TableFormat.latex:
            from qilin_rag.reports.sections import as_latex

            return as_latex(found.sections("\n"))
        case TableFormat.html:
            from qilin_rag.reports.section_page import as_page

            return as_page(found.title, found.sections("\n"))


def _draw(sections: Iterable[Section], path: Path) -> None:
    from qilin_rag.reports.drawing import save, stacked
    from qilin_rag.reports.forest import forest_drawing

    drawings = [forest_drawing(section.plot, section.title) for section in sections if section.plot]
    if drawings:
        save(stacked(drawings), path)
    else:
        logger.warning("--plot %s is not written: no measure was compared", path)
