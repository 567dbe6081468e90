"""`analyze`: the tables and figures of the paper's section 4, and the questions that they leave open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.help import App
from qilin_rag.cli.options import AsJson, QilinTables, Quiet, SetLog, log_settings, qilin_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from qilin_rag.analysis.dqa_effect import DqaEffect
    from qilin_rag.analysis.figures import FigureTable
    from qilin_rag.data.source import Source

app = App("analyze", invoke_without_command=True)
Plots = Annotated[bool, typer.Option(help="Draw plots as PNG and SVG; needs matplotlib.")]
Out = Annotated[Path, typer.Option(help="A new folder to write.")]


@app.callback(invoke_without_command=True)
def analyze(
    context: typer.Context,
    data: QilinTables = None,
    out: Annotated[Path | None, typer.Option(help="A new folder to write.")] = None,
    settings: SetLog = None,
    plots: Plots = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Describe Qilin's tables as section 4 of the paper does.

    Writes Tables 2 and 5 to 9, the demographics and Figure 3 as CSV, JSON, plots and one Markdown page, beside the
    values that the paper gives for Qilin.

    Examples:
        qilin-rag analyze --data data/Qilin --out figures
        qilin-rag analyze answers --data data/Qilin --out answers
        qilin-rag analyze dqa-effect --data data/Qilin --out effect --no-plots
    """
    from qilin_rag.core.errors import UsageError

    if name := context.invoked_subcommand:
        if data is not None or out is not None or settings or not plots or quiet or as_json:
            raise UsageError(f"options of analyze {name} stand behind it: write qilin-rag analyze {name} --out DIR")
        return
    from qilin_rag.analysis.paper_tables import analyse

    if out is None:
        raise UsageError("--out is missing; name a new folder to write: --out DIR")
    _write(analyse, data, out, plots, quiet, as_json, settings=settings)


@app.command()
def answers(
    out: Out, data: QilinTables = None, plots: Plots = True, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Tell which answers users favour.

    Gives feedback by length, number of citations, types of the cited notes, and source of the query.

    Examples:
        qilin-rag analyze answers --data data/Qilin --out answers
        qilin-rag analyze answers --data data/Qilin --out answers --no-plots --json
    """
    from qilin_rag.analysis.answers import favoured_answers

    lead = "Each cell: the share of the answers with this feedback, and its 95% interval."
    _write(favoured_answers, data, out, plots, quiet, as_json, lead)


@app.command()
def modality(
    out: Out,
    data: QilinTables = None,
    settings: SetLog = None,
    plots: Plots = True,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tell which queries lead to clicks on which note types.

    Also fits a calibrated model of the clicked type, and gives its gain over the base rate.

    Examples:
        qilin-rag analyze modality --data data/Qilin --out modality
        qilin-rag analyze modality --data data/Qilin --out types --seed 1 --no-plots
    """
    from qilin_rag.analysis.log import read_log
    from qilin_rag.analysis.modality import modality as by_query
    from qilin_rag.data.catalogue import read_users

    lead = "Clicks of searches on notes whose type is known."
    _write(
        lambda source: by_query(read_log(source), read_users(source), seed),
        data,
        out,
        plots,
        quiet,
        as_json,
        lead,
        "sklearn",
        settings=settings,
    )


def _write(
    analysis: Callable[[Source], Sequence[FigureTable]],
    data: str | None,
    out: Path,
    plots: bool,
    quiet: bool,
    as_json: bool,
    lead: str | None = None,
    *modules: str,
    settings: list[str] | None = None,
) -> None:
    """Write the tables of an analysis into a new folder, with their plots and page, and print them."""
    from qilin_rag.analysis.page import PAGE, lead_of, write_tables
    from qilin_rag.analysis.paper_tables import n_items
    from qilin_rag.data.released import why_other_data

    folder_to_write = _prepared(out, plots, quiet or as_json, *modules)
    source = open_tables(data, settings)
    with folder_to_write as folder:
        with ui.progress_bars(quiet or as_json):
            tables = analysis(source)
        drawn: list[str] = []
        if plots:
            from qilin_rag.analysis.plots import draw_tables

            drawn = draw_tables(tables, folder)
        why_other = None if lead else why_other_data(source, n_items(tables))
        write_tables(tables, folder, source.label, drawn, lead or lead_of(why_other))
    if as_json:
        about_paper = {} if lead else {"paper": "Qilin", "why_not_qilin": why_other}
        ui.print_json({"out": str(out), **about_paper, "tables": [table.model_dump() for table in tables]})
        return
    console = ui.console()
    if why_other and not quiet:
        console.print(f"the paper's values are for Qilin, and this data is not known to be Qilin: {why_other}")
    if not quiet:
        _print_missing(tables)
    typer.echo(out / PAGE)


def _print_missing(tables: Sequence[FigureTable]) -> None:
    for table in tables:
        if missing := table.missing():
            n_missing = sum(line.count(",") + 1 for line in missing)
            ui.console().print(f"{table.key} lacks {n_missing} figures: {table.why_missing}")


@app.command("dqa-effect")
def dqa_effect(
    out: Out,
    data: QilinTables = None,
    settings: SetLog = None,
    plots: Plots = True,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of the matching.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Estimate how an answer changes what users do.

    Gives matching and doubly robust estimates, the balance of the compared groups, and the limits of the conclusion.
    Refuses an estimate if the groups can't be compared.

    Examples:
        qilin-rag analyze dqa-effect --data data/Qilin --out effect
        qilin-rag analyze dqa-effect --data data/Qilin --out effect --no-plots --json
    """
    from qilin_rag.analysis.dqa_effect import dqa_effects
    from qilin_rag.analysis.effect_page import CAVEATS, PAGE, write_effects
    from qilin_rag.analysis.log import read_log
    from qilin_rag.data.catalogue import read_users

    folder_to_write = _prepared(out, plots, quiet or as_json, "sklearn")
    source = open_tables(data, settings)
    with folder_to_write as folder:
        with ui.progress_bars(quiet or as_json):
            log = read_log(source)
            effects = dqa_effects(log, read_users(source), seed)
        write_effects(effects, folder, source.label, plots, log.clock)
    if as_json:
        populations = [effect.model_dump() for effect in effects]
        ui.print_json({"out": str(out), "populations": populations, "caveats": CAVEATS})
        return
    if not quiet:
        for effect in effects:
            _print_effect(effect)
        _print_caveats(CAVEATS)
        ui.console().print(log.clock)
    typer.echo(out / PAGE)


@app.command("re-search")
def re_search(
    out: Out,
    data: QilinTables = None,
    settings: SetLog = None,
    minutes: Annotated[
        float, typer.Option(help="Most minutes between a search and another one for the same need.")
    ] = 10,
    similarity: Annotated[
        float, typer.Option(help="Least similarity of two queries for the same need, above 0 and up to 1.")
    ] = 0.4,
    long_click: Annotated[
        float, typer.Option(metavar="SECONDS", help="Fewest seconds on a note of a long click.")
    ] = 30,
    plots: Plots = True,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of the matching.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether users search again after an answer.

    Gives searches for the same need, reformulations, searches that nothing follows, and the time on clicked notes, with
    an answer and without; and what of it the answer changes, estimated as by dqa-effect.

    Examples:
        qilin-rag analyze re-search --data data/Qilin --out again
        qilin-rag analyze re-search --data data/Qilin --out again --minutes 5
    """
    from qilin_rag.analysis.after_search import ReSearchLimits
    from qilin_rag.analysis.log import read_log
    from qilin_rag.analysis.re_search import re_search_report
    from qilin_rag.analysis.re_search_page import CAVEATS, PAGE, as_content, write_report
    from qilin_rag.data.catalogue import read_users

    folder_to_write = _prepared(out, plots, quiet or as_json, "sklearn")
    source = open_tables(data, settings)
    with folder_to_write as folder:
        with ui.progress_bars(quiet or as_json):
            limits = ReSearchLimits(minutes, similarity, long_click)
            report = re_search_report(read_log(source), read_users(source), limits, seed)
        write_report(report, folder, source.label, plots)
    if as_json:
        tables = [table.model_dump() for table in report.tables]
        ui.print_json({"out": str(out), **as_content(report), "tables": tables, "caveats": CAVEATS})
        return
    if not quiet:
        for effect in report.effects:
            _print_effect(effect)
        if report.refused:
            ui.console().print(f"no effect is given: {report.refused}", style="yellow")
        _print_missing(report.tables)
        _print_caveats(CAVEATS)
    typer.echo(out / PAGE)


def _prepared(out: Path, plots: bool, quiet: bool, *modules: str) -> AbstractContextManager[Path]:
    """Return the new folder; check first that the needed packages are installed."""
    from qilin_rag.core.extras import require
    from qilin_rag.core.files import new_folder

    ui.set_up_logs(quiet)
    require(
        "analysis",
        *modules,
        *(["matplotlib"] if plots else []),
        what="analyze" + (" (--no-plots: less)" if plots else ""),
    )
    return new_folder(out)


def _print_effect(effect: DqaEffect) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from qilin_rag.analysis.effect_page import findings, outcome_name, signed

    console = ui.console()
    title = f"among {effect.population}: {effect.n_answered:,} with an answer, {effect.n_others:,} without"
    console.print(Text(title), style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("outcome", overflow="fold")
    for name in ("naive", "doubly robust", "95%", "E-value"):
        table.add_column(name, justify="right")
    for estimate in effect.effects:
        robust = estimate.doubly_robust
        ends = [None, None] if robust is None else [robust.low, robust.high]
        cells = [
            outcome_name(estimate),
            signed(estimate.naive.value),
            "refused" if robust is None else signed(robust.value),
            " ".join(signed(end) for end in ends if end is not None) or "-",
            "-" if estimate.e_value is None else f"{estimate.e_value:.2f}",
        ]
        table.add_row(*map(Text, cells))
    console.print(table, width=ui.WIDTH_CHARS)
    for line in findings(effect):
        console.print(Text(f"- {line}"), style="yellow", width=ui.WIDTH_CHARS)
    console.print()


def _print_caveats(caveats: Sequence[str]) -> None:
    from rich.text import Text

    console = ui.console()
    console.print(Text("What this does not show:"), style="bold")
    for line in caveats:
        console.print(Text(f"- {line}"), width=ui.WIDTH_CHARS)
    console.print()


def open_tables(data: str | None, settings: list[str] | None = None) -> Source:
    """Open all tables of the data that `--data` or the environment names; `settings` say how to read requests."""
    from qilin_rag.data.schema import TABLES
    from qilin_rag.data.source import open_source

    return open_source(qilin_tables(data), list(TABLES), log=log_settings(settings))
