"""`export`: write the answers of a run in the format of other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, NamedIn, find_runs_named


class ExportFormat(StrEnum):
    """Formats that can be written."""

    trec_rag = "trec-rag"


def export(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    output_format: Annotated[
        ExportFormat,
        typer.Option("--format", help="trec-rag: that of the TREC RAG track, JSON Lines with a topic each."),
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
    runs_dir: NamedIn = None,
) -> None:
    """Export answers with their citations for other tools.

    Examples:
        qilin-rag export runs/RUN --format trec-rag --out answers.jsonl
    """
    from qilin_rag.reports.export import export_trec_rag

    [run_directory] = find_runs_named([run_directory], runs_dir)
    done = export_trec_rag(run_directory, out)
    console = ui.console()
    console.print(f"{out}: {done.topics} topics, {done.citations} citations")
    for remark, n in done.remarks.items():
        console.print(f"{n} {remark}", style="yellow")
