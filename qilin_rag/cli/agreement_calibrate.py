"""`agreement calibrate`: the judge and threshold that agree best with people, and how well they will."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli.agreement_formats import PlotOption, Result, set_up_output, show_result
from qilin_rag.cli.options import AsJson, Quiet, listed
from qilin_rag.cli.table_formats import FormatOption, OutOption, TableFormat
from qilin_rag.core.errors import UsageError


def calibrate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A JSONL file of pairs: query, reference, a, b, people, and judges.")
    ],
    judges: Annotated[
        str | None, typer.Option(help="Judges of the file to choose from, separated by commas. [default: all]")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=100, help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and intervals.")] = 0,
    output_format: FormatOption = TableFormat.table,
    out: OutOption = None,
    plot: PlotOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Choose a judge and its threshold by people's labels.

    Chooses among the judges whose scores are in the file by cross-validation, with all pairs of a query in one fold.
    What is printed is the agreement with labels that the choice did not see.

    Examples:
        qilin-rag agreement calibrate pairs.jsonl
        qilin-rag agreement calibrate pairs.jsonl --judges strict,kind --folds 10 --format html --out judges.html
    """
    from qilin_rag.agreement.calibration import calibrate as chosen
    from qilin_rag.agreement.calibration_sections import calibration_records, calibration_sections
    from qilin_rag.agreement.pairs import read_pairs

    output = set_up_output(output_format, as_json, out, plot, quiet)
    judged = read_pairs(file)
    names = list(judged.measures) if judges is None else listed("judges", judges)
    if unknown := [name for name in names if name not in judged.measures]:
        raise UsageError(
            f"{file} has no scores of {', '.join(unknown)}; it has {', '.join(judged.measures) or 'none'} (--judges)"
        )
    measures = {name: judged.measures[name] for name in names}
    found = [chosen(judged, measures, aspect, folds, seed) for aspect in judged.aspects]
    shown = Result(
        "Which judge agrees with people",
        lambda between: calibration_sections(found),
        lambda: calibration_records(found),
        lambda: [each.model_dump(mode="json") for each in found],
    )
    show_result(shown, output)
