"""`agreement calibrate`: the judge and threshold that agree best with people, and how well they will."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, Quiet, listed
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.agreement.calibration import Calibration
    from qilin_rag.agreement.intervals import AgreementFigure
    from qilin_rag.reports.sections import Section


def calibrate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A JSONL file of pairs: query, reference, a, b, people, and judges.")
    ],
    judges: Annotated[
        str | None, typer.Option(help="Judges of the file to choose from, separated by commas. [default: all]")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=100, help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and intervals.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Choose a judge and its threshold by people's labels.

    Chooses among the judges whose scores are in the file by cross-validation, with all pairs of a query in one fold.
    What is printed is the agreement with labels that the choice did not see.

    Examples:
        qilin-rag agreement calibrate pairs.jsonl
        qilin-rag agreement calibrate pairs.jsonl --judges strict,kind --folds 10
    """
    from qilin_rag.agreement.calibration import calibrate as chosen
    from qilin_rag.agreement.pairs import read_pairs

    ui.set_up_logs(quiet or as_json)
    judged = read_pairs(file)
    names = list(judged.measures) if judges is None else listed("judges", judges)
    if unknown := [name for name in names if name not in judged.measures]:
        raise UsageError(
            f"{file} has no scores of {', '.join(unknown)}; it has {', '.join(judged.measures) or 'none'} (--judges)"
        )
    measures = {name: judged.measures[name] for name in names}
    found = [chosen(judged, measures, aspect, folds, seed) for aspect in judged.aspects]
    if as_json:
        ui.print_json([each.model_dump(mode="json") for each in found])
        return
    ui.print_sections(map(_section, found))


def _section(found: Calibration) -> Section:
    from qilin_rag.reports.sections import Section

    title = (
        f"{found.aspect}: {counted(found.n_judgements, 'judgement')}, {counted(found.n_queries, 'query', 'queries')}, "
        f"{found.n_folds} folds"
    )
    rows = [
        ["the best of the other folds", "", *_cells(found.held_out)],
        ["what people say most", "", *_cells(found.most_frequent)],
        ["each judge alone", "", "", ""],
        *([each.judge, str(each.n_chosen), *_cells(each.held_out)] for each in found.judges),
    ]
    return Section(title, ["", "folds won", "held out", "95% interval"], rows, list(_lines(found)))


def _lines(found: Calibration) -> Iterator[str]:
    if found.is_shown:
        yield (
            f"Use {found.judge}, and call a pair a tie if its scores differ by at most {found.epsilon:g}. Expect it to "
            f"agree with {found.held_out.value:.3f} of the judgements."
        )
    else:
        yield "No judge is shown to agree better than always saying what people say most, so none is recommended."
    yield (
        "held out: the share of judgements that judge and threshold get right if both were chosen on the other folds. "
        "An unscored pair counts as wrong. The highest of the judges alone looks better than it is: it was picked here."
    )
    if found.held_out.reason:
        yield f"No interval, {found.held_out.reason}."


def _cells(figure: AgreementFigure) -> tuple[str, str]:
    low_high = "" if figure.ci95 is None else f"{figure.ci95[0]:.3f} .. {figure.ci95[1]:.3f}"
    return "-" if figure.value is None else f"{figure.value:.3f}", low_high
