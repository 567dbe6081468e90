"""`index`: build a retriever's index in a folder of your own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, Data, NoteFields, Quiet, Settings
from qilin_rag.core.text import counted


class IndexEngine(StrEnum):
    """Places to encode notes in."""

    local = "local"
    ray = "ray"


def index(
    retriever: Annotated[
        str,
        typer.Argument(metavar="RETRIEVER", help="Retriever to build it for: bm25, biencoder, sparse or multivector."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; replaces an index in it.")],
    data: Data = None,
    note_fields: NoteFields = None,
    engine: Annotated[
        IndexEngine,
        typer.Option(help="With biencoder: encode notes on this machine, or on a Ray cluster (RAY_ADDRESS)."),
    ] = IndexEngine.local,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Build a retriever's index in a folder.

    Later runs search it with `--set retriever.index=FOLDER`, and refuse it if it was built from other notes or other
    settings.

    Examples:
        qilin-rag index bm25 --out bm25-index
        qilin-rag index biencoder --data data/Qilin --out bi-index --engine ray
    """
    from qilin_rag.config.run import resolve_run
    from qilin_rag.pipeline.retrieving import build_index

    ui.set_up_logs(quiet or as_json)
    settings = [*(settings or []), *(["retriever.engine=ray"] if engine is IndexEngine.ray else [])]
    flags = {"retriever": retriever, "data": data, "note_fields": note_fields}
    with ui.progress_bars(quiet or as_json):
        written = build_index(resolve_run(flags, settings, with_prompt=False), out)
    if as_json:
        facts = {"out": str(written.path), "n_notes": written.n_notes, "n_bytes": written.n_bytes}
        ui.print_json(facts | ({"encoding": written.encoding._asdict()} if written.encoding else {}))
        return
    ui.console().print(f"{retriever} index of {counted(written.n_notes, 'note')}, {written.n_bytes / 1e6:.1f} MB")
    if written.encoding:
        ui.console().print(f"notes encoded by {written.encoding.told()}", soft_wrap=True)
    typer.echo(written.path)
