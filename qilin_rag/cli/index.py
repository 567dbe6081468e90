"""`index`: build a retriever's index into a folder of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, Data, Quiet, Settings
from qilin_rag.core.text import counted


class IndexEngine(StrEnum):
    """Where notes are encoded."""

    local = "local"
    ray = "ray"


def index(
    retriever: Annotated[str, typer.Argument(help="A retriever with an index: bm25 or biencoder.")],
    out: Annotated[Path, typer.Option(help="The folder to write; an index that is there is replaced.")],
    data: Data = None,
    engine: Annotated[
        IndexEngine,
        typer.Option(help="biencoder: what encodes the notes, this machine or a Ray cluster (RAY_ADDRESS)."),
    ] = IndexEngine.local,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Build an index into a folder.

    `--set retriever.index=FOLDER` then searches it, and refuses it where it was made of anything else.
    """
    from qilin_rag.config.run import resolve_run
    from qilin_rag.pipeline.retrieving import build_index

    ui.set_up_logs(quiet or as_json)
    settings = [*(settings or []), *(["retriever.engine=ray"] if engine is IndexEngine.ray else [])]
    with ui.progress_bars(quiet or as_json):
        written = build_index(resolve_run({"retriever": retriever, "data": data}, settings), out)
    if as_json:
        ui.print_json({"out": str(written.path), "n_notes": written.n_notes, "n_bytes": written.n_bytes})
        return
    ui.console().print(f"{retriever} index of {counted(written.n_notes, 'note')}, {written.n_bytes / 1e6:.1f} MB")
    typer.echo(written.path)
