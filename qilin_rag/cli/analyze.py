"""`analyze`: the figures of the paper's section 4 for any data, and what they leave open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, Data, Quiet

if TYPE_CHECKING:
    from qilin_rag.data.source import Source

app = typer.Typer(
    name="analyze",
    help="What is in the data: tables and plots of the paper's section 4.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
Out = Annotated[Path | None, typer.Option(help="A new folder to write.")]


@app.callback(invoke_without_command=True)
def analyze(
    context: typer.Context,
    data: Data = None,
    out: Out = None,
    plots: Annotated[bool, typer.Option(help="Draw plots, as PNG and SVG; they need matplotlib.")] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tables 2 and 5 to 9, demographics and Figure 3 of the paper, as CSV, JSON, plots and one Markdown page.

    The paper's values stand beside those of the data.
    """
    if context.invoked_subcommand:
        return
    from qilin_rag.analysis.page import PAGE, write_tables
    from qilin_rag.analysis.paper_tables import analyse
    from qilin_rag.errors import UsageError
    from qilin_rag.extras import require
    from qilin_rag.store import new_folder

    ui.set_up_logs(quiet or as_json)
    if out is None:
        raise UsageError("name the folder to write: --out DIR")
    if plots:
        require("analysis", "matplotlib", what="plots (leave them out: --no-plots)")
    source = open_tables(data)
    with new_folder(out) as folder:
        tables = analyse(source)
        drawn: list[str] = []
        if plots:
            from qilin_rag.analysis.plots import draw_tables

            drawn = draw_tables(tables, folder)
        write_tables(tables, folder, source.label, drawn)
    if as_json:
        ui.print_json({"out": str(out), "tables": [table.model_dump() for table in tables]})
        return
    for table in tables:
        if not quiet and (missing := table.missing()):
            typer.echo(f"{table.key} lacks {sum(line.count(',') + 1 for line in missing)} figures: {table.why_missing}")
    typer.echo(out / PAGE)


def open_tables(data: str | None) -> Source:
    """All tables of the data that `--data` or the environment names."""
    import os

    from qilin_rag.data.schema import TABLES
    from qilin_rag.data.source import open_source

    return open_source(data or os.environ.get("QILIN_RAG_DATA") or "sample", list(TABLES))
