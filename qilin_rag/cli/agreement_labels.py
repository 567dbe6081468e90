"""`agreement runs`, `export` and `import`: labels of the answers of your own runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.agreement_formats import (
    AgreementStatistic,
    ComparedBy,
    PlotOption,
    Result,
    TableSeed,
    set_up_output,
    show_result,
)
from qilin_rag.cli.options import RUN_HELP, AsJson, NamedIn, Quiet, find_runs_named
from qilin_rag.cli.table_formats import FormatOption, OutOption, TableFormat
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.agreement.label_rows import LabelRow
    from qilin_rag.reports.measured import Measured

logger = logging.getLogger(__name__)


def runs(
    names: Annotated[list[Path], typer.Argument(metavar="RUN...", help=RUN_HELP)],
    labels: Annotated[
        list[Path],
        typer.Option(help="CSV or JSONL file of labels, as view --export or agreement import writes it; repeatable."),
    ],
    by: ComparedBy = AgreementStatistic.pearson,
    seed: TableSeed = 0,
    runs_dir: NamedIn = None,
    output_format: FormatOption = TableFormat.table,
    out: OutOption = None,
    plot: PlotOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare the measures of runs with labels of their answers.

    Every metric that has scores in all the runs is compared with what people said, and with sentinels that must not
    win. Choices and ratings side by side are pairs of answers. Ratings also say how far a measure agrees over single
    answers. Three runs or more also show how far it agrees on the order of the runs.

    Examples:
        qilin-rag agreement runs runs/RUN_A runs/RUN_B --labels labels.csv
        qilin-rag agreement runs runs/RUN_A --labels labels.csv --format md
    """
    from qilin_rag.agreement.run_agreement import run_agreement, run_document, run_records, run_sections

    output = set_up_output(output_format, as_json, out, plot, quiet)
    with ui.progress_bars(quiet):
        found = run_agreement(*read_labelled(names, labels, runs_dir), by.value, seed)
    shown = Result(
        "Which measures agree with labels",
        lambda between: run_sections(found, between),
        lambda: run_records(found),
        lambda: run_document(found),
    )
    show_result(shown, output)


def read_labelled(
    names: Iterable[Path], labels: Sequence[Path], folders: Sequence[Path] | None
) -> tuple[list[LabelRow], list[Measured]]:
    """Read labels, and runs under the names that labels have for them; UsageError if a run is named twice."""
    from qilin_rag.agreement.blinded import run_names
    from qilin_rag.agreement.label_rows import read_label_rows
    from qilin_rag.reports.measured import read_run

    paths = find_runs_named(names, folders)
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a run is named twice; name each run once")
    rows = read_label_rows(labels)
    return rows, [read_run(path, name) for path, name in zip(paths, run_names(paths), strict=True)]


def export(
    names: Annotated[list[Path], typer.Argument(metavar="RUN...", help=RUN_HELP)],
    out: Annotated[Path, typer.Option(help="File for annotators, .csv or .jsonl; its key is written beside it.")],
    questions: Annotated[int | None, typer.Option(min=1, help="Only N questions, drawn with --seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the questions, their order and the sides.")] = 0,
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Scale of ratings, such as fluent=1-5; repeatable. [default: quality=1-5 for single answers]",
        ),
    ] = None,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="Show each answer alone, also those of several runs.")
    ] = False,
    runs_dir: NamedIn = None,
    quiet: Quiet = False,
) -> None:
    """Write answers for people to label, without their runs.

    The file has a row for each answer of one run, or for each two answers of several runs to a question, shuffled, with
    the question and its references. People fill in the empty columns; `agreement import` reads them back. Which run an
    answer is from is in a second file, the key: keep it, and keep it from the annotators.

    Examples:
        qilin-rag agreement export runs/RUN_A runs/RUN_B --out pairs.csv
        qilin-rag agreement export runs/RUN --out sheet.csv --criterion fluent=1-5
    """
    from qilin_rag.agreement.blinded import blind, parse_criteria, write_blinded
    from qilin_rag.agreement.label_rows import check_format
    from qilin_rag.core.files import check_out

    ui.set_up_logs(quiet)
    check_format(out)
    check_out(out)
    paths = find_runs_named(names, runs_dir)
    blinded = blind(paths, questions, seed, parse_criteria(criterion or []), one_by_one)
    key = write_blinded(blinded, out)
    for remark in blinded.remarks:
        logger.info(remark)
    what = "answer" if blinded.key.n_sides == 1 else "pair"
    ui.console().print(f"{out}: {counted(len(blinded.rows), what)} to label; key: {key}", soft_wrap=True)


def import_filled(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files that annotators filled in.")],
    key: Annotated[Path, typer.Option(help="Key that agreement export wrote beside its file.")],
    out: Annotated[Path, typer.Option(help="File of labels to write, .csv or .jsonl.")],
    quiet: Quiet = False,
) -> None:
    """Read labels back from files that people filled in.

    The column `annotator` says who labelled a row; if it is empty, the name of the file counts. The labels are written
    with the names of the runs, in the form that the label page exports.

    Examples:
        qilin-rag agreement import an.csv bo.csv --key sheet.key.json --out labels.csv
    """
    from qilin_rag.agreement.blinded import import_labels
    from qilin_rag.agreement.label_rows import check_format, write_rows
    from qilin_rag.core.files import check_out

    ui.set_up_logs(quiet)
    check_format(out)
    check_out(out)
    if out.resolve() in {path.resolve() for path in (key, *files)}:
        raise UsageError(f"{out} is one of the files that are read; name another file with --out")
    found = import_labels(files, key)
    write_rows(out, found.columns, found.rows)
    if found.n_empty:
        logger.info("left out: %s without a label", counted(found.n_empty, "row"))
    if found.n_changed:
        logger.info("left out: %s whose answers are not those of the key any more", counted(found.n_changed, "row"))
    if found.n_partial:
        logger.info("%s with a part of the labels only", counted(found.n_partial, "row"))
    annotators = counted(len({row["annotator"] for row in found.rows}), "annotator")
    ui.console().print(f"{out}: {counted(len(found.rows), 'label')} by {annotators}", soft_wrap=True)
