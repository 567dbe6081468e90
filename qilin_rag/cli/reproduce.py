"""`reproduce`: repeat a finished run, and print what changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, BaseUrl, Quiet, Settings, find_runs_named
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.errors import INSTEAD

if TYPE_CHECKING:
    from qilin_rag.pipeline.reproduce import Reproduction


def reproduce(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    runs_dir: Annotated[
        Path | None, typer.Option(help="Folder to keep the new run in. [default: runs/reproduced]")
    ] = None,
    base_url: BaseUrl = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Start the LLM's own server, as the run did if it was made with --serve.")
    ] = False,
    settings: Settings = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest accepted change of a figure. [default: no score of any question changes]"),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask every question again, even if an earlier reproduction asked it.")
    ] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the code (module:Class) that the run names.")
    ] = False,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Repeat a run and print which figures changed.

    Asks without the cache of answers, into a folder of its own. Refuses addresses, keys, code and engine arguments that
    only the run names. Exits with code 0 if the figures agree, and with 1 if they do not.

    Examples:
        qilin-rag reproduce runs/RUN
        qilin-rag reproduce runs/RUN --set data=data/Qilin --tolerance 0.005
        qilin-rag reproduce runs/RUN --base-url http://127.0.0.1:8001/v1
    """
    from qilin_rag.pipeline.reproduce import REPRODUCED, check
    from qilin_rag.pipeline.reproduce import reproduce as reproduce_run

    ui.set_up_logs(quiet or as_json)
    [run_directory] = find_runs_named([run_directory], None)
    try:
        with ui.progress_bars(quiet):
            reproduction = reproduce_run(
                run_directory,
                runs_dir or REPRODUCED,
                base_url=base_url,
                overrides=settings or [],
                serve=serve,
                fresh=fresh,
                allow_code=allow_code,
                tolerance=tolerance,
            )
    except KeyboardInterrupt:
        again = "the same command without --fresh" if fresh else "the same command"
        raise Interrupted(f"every finished answer is kept; {again} resumes") from None
    if as_json:
        ui.print_json(reproduction.model_dump(mode="json"))
    else:
        _print(reproduction)
    check(reproduction)


def _print(reproduction: Reproduction) -> None:
    """Print the comparison in 80 columns."""
    from rich.table import Table
    from rich.text import Text

    console = ui.console()
    figures = Table("metric", box=None, pad_edge=False, header_style="bold")
    figures.columns[0].overflow = "fold"
    for column in ("then", "now", "difference", "scores changed"):
        figures.add_column(column, justify="right")
    for name, change in reproduction.metrics.items():
        values = ["unscored" if value is None else f"{value:.4f}" for value in (change.old, change.new)]
        difference = "-" if change.difference is None else f"{change.difference:+.4f}"
        changed = f"{change.scores_changed} of {reproduction.questions}"
        figures.add_row(Text(name), *values, difference, changed, style="" if change.agrees else "bold red")
    console.print(figures, width=ui.WIDTH_CHARS)
    for name, change in reproduction.metrics.items():
        if change.why_not:
            console.print(f"{name}: {change.why_not}", style="yellow", width=ui.WIDTH_CHARS)
    for name in reproduction.not_made:
        why = "gone since" if name in INSTEAD else "added by score"
        console.print(f"{name}: {why}, not made again", style="yellow", width=ui.WIDTH_CHARS)
    counts = {
        "answers": reproduction.answers_changed,
        "prompts": reproduction.prompts_changed,
        "rankings": reproduction.hits_changed,
    }
    changed = ", ".join(f"{n} {name}" for name, n in counts.items()) + " changed"
    console.print(f"{reproduction.questions} questions: {changed}", width=ui.WIDTH_CHARS)
    if reproduction.failed:
        console.print(
            f"{reproduction.failed} questions have no answer; the same command asks them again", style="yellow"
        )
    if reproduction.provenance:
        made_with = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("made with", "then", "now"):
            made_with.add_column(column, overflow="fold")
        for name, (then, now) in reproduction.provenance.items():
            made_with.add_row(Text(name), Text(then), Text(now))
        console.print(made_with, width=ui.WIDTH_CHARS)
    typer.echo(reproduction.reproduced)
