"""`export`: a run's answers in the format of other people's tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, NamedIn, find_runs_named


class ExportFormat(StrEnum):
    """What can be written."""

    trec_rag = "trec-rag"


def export(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    output_format: Annotated[
        ExportFormat, typer.Option("--format", help="trec-rag: the TREC RAG track's, a JSON object a topic and line.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    runs_dir: NamedIn = None,
) -> None:
    """Write a run's answers, sentence by sentence with what they cite, for other tools."""
    from qilin_rag.reports.export import export_trec_rag

    [run_directory] = find_runs_named([run_directory], runs_dir)
    done = export_trec_rag(run_directory, out)
    console = ui.console()
    console.print(f"{out}: {done.topics} topics, {done.citations} citations")
    for remark, n in done.remarks.items():
        console.print(f"{n} {remark}", style="yellow")
