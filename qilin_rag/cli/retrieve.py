"""`retrieve`: run the first stage alone, into a TREC run with its figures."""

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
    NoteFields,
    QueryStage,
    Quiet,
    Rerank,
    RerankDepth,
    RerankWeight,
    RetrieverName,
    Seed,
    Settings,
)

_TOP_K = 100  # usual in evaluations of retrieval


def retrieve(
    out: Annotated[Path, typer.Option(help="TREC run to write.")],
    retriever: RetrieverName = None,
    query: QueryStage = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = None,
    rerank_weight: RerankWeight = None,
    data: Data = None,
    missing_notes: MissingNotes = None,
    top_k: Annotated[
        int | None, typer.Option(help="Notes to find for each question. [default: 100, or --rerank-depth]")
    ] = None,
    note_fields: NoteFields = None,
    limit: Limit = None,
    seed: Seed = None,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Retrieve only, and write a TREC run.

    Prints recall, nDCG and reciprocal rank. `run --retriever trec:FILE` answers from the file.

    Examples:
        qilin-rag retrieve --retriever bm25 --out bm25.trec
        qilin-rag retrieve --retriever bm25 --set retriever.k1=1.2 --out k1.trec
    """
    from qilin_rag.config.run import resolve_run
    from qilin_rag.pipeline.retrieving import retrieve_only

    ui.set_up_logs(quiet or as_json)
    flags = {
        "retriever": retriever,
        "query": query,
        "rerank": rerank,
        "rerank_depth": rerank_depth,
        "rerank_weight": rerank_weight,
        "data": data,
        "missing_notes": missing_notes,
        "top_k": top_k,
        "note_fields": note_fields,
        "limit": limit,
        "seed": seed,
    }
    with ui.progress_bars(quiet or as_json):
        figures, queries = retrieve_only(resolve_run(flags, settings or [], top_k=_TOP_K, with_prompt=False), out)
    if as_json:
        printed = {"out": str(out), "metrics": {name: figure.model_dump() for name, figure in figures.items()}}
        ui.print_json(printed | ({"queries": queries.model_dump(mode="json")} if queries else {}))
        return
    ui.print_metrics(figures)
    if queries:
        from qilin_rag.pipeline.cost import say_queries

        ui.console().print(say_queries(queries), style="dim")
    typer.echo(out)
