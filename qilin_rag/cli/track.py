"""`track`: hand runs that exist to trackers of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, NamedIn, Quiet, find_runs_named
from qilin_rag.core.errors import QilinError
from qilin_rag.core.text import counted


def track(
    run_directories: Annotated[list[Path], typer.Argument(metavar="RUN...", help=f"{RUN_HELP} Also a ranking.")],
    trackers: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="TRACKER",
            help="mlflow, trackio, wandb (see: list hooks), or package.module:Class; repeatable.",
        ),
    ],
    runs_dir: NamedIn = None,
    quiet: Quiet = False,
) -> None:
    """Write finished runs to MLflow, W&B or trackio.

    Parameters, figures with their intervals, scores of each question, manifest and summary. A run that the tracker has
    is updated. The option --track of run, sweep, judge and others does the same at their end.

    Examples:
        qilin-rag track runs/* --with mlflow
        qilin-rag track runs/RUN --with trackio --with wandb
    """
    from qilin_rag.pipeline.hooks.calling import call_ended, check_hooks, split_names
    from qilin_rag.pipeline.hooks.record import check_complete

    ui.set_up_logs(quiet)
    names = split_names(trackers)
    check_hooks(names)
    paths = find_runs_named(run_directories, runs_dir)
    for path in paths:
        check_complete(path)
    n_failed = 0
    with ui.progress_bars(quiet):
        for path in paths:
            failed = call_ended(names, path)
            n_failed += failed > 0
            if not failed:
                typer.echo(path)
    if n_failed:
        raise QilinError(f"{n_failed} of {counted(len(paths), 'run')} could not be tracked; the reasons are above")
