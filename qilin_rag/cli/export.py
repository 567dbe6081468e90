"""`export`: write runs in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, NamedIn, find_runs_named
from qilin_rag.reports.exports.table import FORMATS


def export(
    run_directories: Annotated[list[Path], typer.Argument(metavar="RUN...", help=RUN_HELP)],
    output_format: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="; ".join(f"{name}: {of.description}" for name, of in FORMATS.items())
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write, or new folder.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the format: model_id=OWNER/NAME (repeatable)."),
    ] = None,
    runs_dir: NamedIn = None,
) -> None:
    """Export runs for other tools.

    Examples:
        qilin-rag export runs/RUN --format trec-rag-2026 --out answers.jsonl
        qilin-rag export runs/RUN --format inspect --out run.eval
        qilin-rag export runs/RUN_A runs/RUN_B --format every-eval-ever --out eee
    """
    from qilin_rag.reports.exports.table import export_format, export_runs

    chosen = export_format(output_format, settings or [])
    done = export_runs(chosen, find_runs_named(run_directories, runs_dir), out)
    console = ui.console()
    console.print(f"{out}: {', '.join(f'{n} {what}' for what, n in done.counts.items())}")
    for remark, n in done.remarks.items():
        console.print(f"{n} {remark}", style="yellow")
