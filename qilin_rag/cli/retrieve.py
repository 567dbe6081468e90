"""`retrieve`: the first stage alone, as a TREC run and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    AsJson,
    Data,
    Limit,
    MissingNotes,
    Quiet,
    Rerank,
    RerankDepth,
    RerankWeight,
    RetrieverName,
    Seed,
    Settings,
)

_TOP_K = 100  # as evaluators of retrieval have it


def retrieve(
    out: Annotated[Path, typer.Option(help="The TREC run to write.")],
    retriever: RetrieverName = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = None,
    rerank_weight: RerankWeight = None,
    data: Data = None,
    missing_notes: MissingNotes = None,
    top_k: Annotated[
        int | None, typer.Option(help="Notes a question gets. [default: 100, or as many as are ranked again]")
    ] = None,
    limit: Limit = None,
    seed: Seed = None,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Retrieve only, into a TREC run.

    Prints recall, nDCG and reciprocal rank; `run --retriever trec:FILE` goes on from the file.
    """
    from qilin_rag.config.run import resolve_run
    from qilin_rag.pipeline.retrieving import retrieve_only

    ui.set_up_logs(quiet or as_json)
    flags = {
        "retriever": retriever,
        "rerank": rerank,
        "rerank_depth": rerank_depth,
        "rerank_weight": rerank_weight,
        "data": data,
        "missing_notes": missing_notes,
        "top_k": top_k,
        "limit": limit,
        "seed": seed,
    }
    with ui.progress_bars(quiet or as_json):
        figures = retrieve_only(resolve_run(flags, settings or [], top_k=_TOP_K), out)
    if as_json:
        ui.print_json({"out": str(out), "metrics": {name: figure.model_dump() for name, figure in figures.items()}})
        return
    ui.print_metrics(figures)
    typer.echo(out)
