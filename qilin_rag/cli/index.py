"""`index`: build a retriever's index into a folder of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, Data, Quiet, Settings


def index(
    retriever: Annotated[str, typer.Argument(help="A retriever with an index: bm25 or biencoder.")],
    out: Annotated[Path, typer.Option(help="The folder to write; an index that is there is replaced.")],
    data: Data = None,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Build an index into a folder.

    `--set retriever.index=FOLDER` then searches it, and refuses it where it was made of anything else.
    """
    from qilin_rag.config import resolve_run
    from qilin_rag.pipeline import build_index

    ui.set_up_logs(quiet or as_json)
    written = build_index(resolve_run({"retriever": retriever, "data": data}, settings or []), out)
    if as_json:
        ui.print_json({"out": str(written.path), "n_notes": written.n_notes, "n_bytes": written.n_bytes})
        return
    ui.console().print(f"{retriever} index of {written.n_notes} notes, {written.n_bytes / 1e6:.1f} MB")
    typer.echo(written.path)
