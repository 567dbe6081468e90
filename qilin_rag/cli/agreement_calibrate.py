"""`agreement calibrate`: the judge and threshold that agree best with people, and how well they will."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.agreement_formats import PlotOption, Result, set_up_output, show_result
from qilin_rag.cli.agreement_labels import read_labelled
from qilin_rag.cli.options import AsJson, NamedIn, Quiet, listed
from qilin_rag.cli.table_formats import FormatOption, OutOption, TableFormat
from qilin_rag.core.errors import UsageError

if TYPE_CHECKING:
    from qilin_rag.agreement.pairs import JudgedPairs

logger = logging.getLogger(__name__)


def calibrate(
    names: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|RUN...",
            help="A JSONL file of pairs (query, reference, a, b, people, and judges), or with --labels the runs.",
        ),
    ],
    labels: Annotated[
        list[Path] | None, typer.Option(help="CSV or JSONL file of labels of the runs; repeatable.")
    ] = None,
    judges: Annotated[
        str | None, typer.Option(help="Judges to choose from, separated by commas. [default: all that have scores]")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=100, help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and intervals.")] = 0,
    runs_dir: NamedIn = None,
    output_format: FormatOption = TableFormat.table,
    out: OutOption = None,
    plot: PlotOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Choose a judge and its threshold by people's labels.

    Chooses among the judges whose scores are in the file, or among the metrics of the runs, by cross-validation, with
    all pairs of a query in one fold. What is printed is the agreement with labels that the choice did not see. A copy
    of a run that another judge has scored adds its scores.

    Examples:
        qilin-rag agreement calibrate pairs.jsonl
        qilin-rag agreement calibrate pairs.jsonl --judges strict,kind --folds 10
        qilin-rag agreement calibrate runs/RUN_A runs/RUN_B --labels labels.csv
    """
    from qilin_rag.agreement.calibration import calibrate_aspects
    from qilin_rag.agreement.calibration_sections import (
        calibration_document,
        calibration_records,
        calibration_sections,
    )
    from qilin_rag.agreement.judge_variants import chosen_measures

    output = set_up_output(output_format, as_json, out, plot, quiet)
    judged, remarks = _judged_file(names) if labels is None else _judged_runs(names, labels, runs_dir, quiet)
    for remark in remarks:
        logger.warning(remark)
    measures = judged.measures
    if judges is not None:
        measures, unknown = chosen_measures(judged.measures, listed("judges", judges))
        if unknown:
            raise UsageError(
                f"{' and '.join(map(str, names))}: no scores of {', '.join(unknown)}; there are "
                f"{', '.join(judged.measures) or 'none'} (--judges)"
            )
    found, left_out = calibrate_aspects(judged, measures, folds, seed)
    for remark in left_out:
        logger.warning(remark)
    shown = Result(
        "Which judge agrees with people",
        lambda between: calibration_sections(found),
        lambda: calibration_records(found),
        lambda: calibration_document(found),
    )
    show_result(shown, output)


def _judged_file(names: list[Path]) -> tuple[JudgedPairs, list[str]]:
    """Read the pairs of a file."""
    from qilin_rag.agreement.pairs import read_pairs

    if len(names) > 1 or names[0].is_dir():
        raise UsageError(
            f"{' '.join(map(str, names))}: without --labels, name one file of pairs; to choose among the judges of "
            "runs, add --labels FILE"
        )
    return read_pairs(names[0]), []


def _judged_runs(
    names: list[Path], labels: list[Path], folders: list[Path] | None, quiet: bool
) -> tuple[JudgedPairs, list[str]]:
    """Read the labels of runs."""
    from qilin_rag.agreement.judge_variants import judged_runs

    with ui.progress_bars(quiet):
        return judged_runs(*read_labelled(names, labels, folders))
