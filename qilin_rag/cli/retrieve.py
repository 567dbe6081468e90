"""`retrieve`: run the first stage alone, into a TREC run with its figures."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    TaskOption,
    qilin_tables,
)
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.config.run import RunConfig
    from qilin_rag.core.types import MetricSummary
    from qilin_rag.pipeline.corpus_retrieval import CorpusFigures, RequestsTask

_TOP_K = 100  # usual in evaluations of retrieval


class RequestSplit(StrEnum):
    """Splits of a task whose requests are searched for."""

    test = "test"
    validation = "validation"
    dqa = "dqa"


def retrieve(
    out: Annotated[Path, typer.Option(help="TREC run to write.")],
    retriever: RetrieverName = None,
    task: Annotated[
        TaskOption | None,
        typer.Option(
            help="Search all notes for the requests of this task, and judge by clicks. [default: the questions of dqa]"
        ),
    ] = None,
    split: Annotated[
        RequestSplit | None,
        typer.Option(
            help="Requests of --task: test, validation (the latest of train), or dqa (the searches of the table dqa). "
            "[default: test]"
        ),
    ] = None,
    without_history: Annotated[
        bool,
        typer.Option(
            "--without-history", help="With --task: remove notes that the user clicked before, also from the clicks."
        ),
    ] = False,
    query: QueryStage = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = None,
    rerank_weight: RerankWeight = None,
    data: Data = None,
    missing_notes: MissingNotes = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Notes to find for each question. [default: 100, or --rerank-depth; 1000 with --task]"),
    ] = None,
    note_fields: NoteFields = None,
    limit: Limit = None,
    seed: Seed = None,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Retrieve only, and write a TREC run.

    Prints recall, nDCG and reciprocal rank. `run --retriever trec:FILE` answers from the file. With --task, the
    requests of Qilin's tables are searched for: query or pseudo query, and clicks.

    Examples:
        qilin-rag retrieve --retriever bm25 --out bm25.trec
        qilin-rag retrieve --retriever bm25 --set retriever.k1=1.2 --out k1.trec
        qilin-rag retrieve --task search --data data/Qilin --out search.trec
    """
    from qilin_rag.config.run import resolve_run
    from qilin_rag.pipeline.corpus_retrieval import NO_STAGES, TOP_K, RequestsTask
    from qilin_rag.pipeline.retrieving import retrieve_only

    ui.set_up_logs(quiet or as_json)
    if task is None and (split is not None or without_history):
        raise UsageError("--split and --without-history are about the requests of a task; name it with --task")
    if task is not None and (query or rerank):
        raise UsageError(NO_STAGES)
    flags = {
        "retriever": retriever,
        "query": query,
        "rerank": rerank,
        "rerank_depth": rerank_depth,
        "rerank_weight": rerank_weight,
        "data": qilin_tables(data) if task else data,
        "missing_notes": missing_notes,
        "top_k": top_k,
        "note_fields": note_fields,
        "limit": limit,
        "seed": seed,
    }
    if task is not None:
        config = resolve_run(flags, settings or [], top_k=TOP_K, with_prompt=False)
        asked = RequestsTask(task.value, (split or RequestSplit.test).value, without_history)
        _retrieve_requests(config, asked, out, quiet, as_json)
        return
    with ui.progress_bars(quiet or as_json):
        figures, queries = retrieve_only(resolve_run(flags, settings or [], top_k=_TOP_K, with_prompt=False), out)
    if as_json:
        printed = {"out": str(out), "metrics": _dumped(figures)}
        ui.print_json(printed | ({"queries": queries.model_dump(mode="json")} if queries else {}))
        return
    ui.print_metrics(figures)
    if queries:
        from qilin_rag.pipeline.cost import say_queries

        ui.console().print(say_queries(queries), style="dim")
    typer.echo(out)


def _retrieve_requests(config: RunConfig, asked: RequestsTask, out: Path, quiet: bool, as_json: bool) -> None:
    """Search for the requests of a task, and print the figures."""
    from qilin_rag.pipeline.corpus_retrieval import retrieve_requests

    with ui.progress_bars(quiet or as_json):
        done = retrieve_requests(config, asked, out)
    if as_json:
        slices = {part: _dumped(metrics) for part, metrics in done.slices.items()}
        ui.print_json({"out": str(out), "metrics": _dumped(done.metrics), "slices": slices, "counts": done.counts})
        return
    parts = {
        part: {name: "-" if each.value is None else f"{each.value:.4f}" for name, each in metrics.items()}
        for part, metrics in done.slices.items()
    }
    ui.print_metrics(done.metrics, parts)
    _print_counts(done)
    typer.echo(out)


def _dumped(metrics: Mapping[str, MetricSummary]) -> dict[str, Any]:
    return {name: figure.model_dump() for name, figure in metrics.items()}


def _print_counts(done: CorpusFigures) -> None:
    """Print what was searched and judged, and what is remarkable about it."""
    console, counts = ui.console(), done.counts
    relevant = counted(counts["relevant"], "clicked note")
    cold = f", {counts['cold']:,} of them cold (never shown to a train request of the task)" if done.slices else ""
    console.print(f"{counted(counts['requests'], 'request')}; {relevant}{cold}")
    if counts["in_history"]:
        gone = counted(counts["in_history"], "clicked note")
        console.print(f"{gone} left out: the user had clicked them before", style="dim")
    remarks = {
        "missing": ("clicked note", "not in the data: can't be found"),
        "blank": ("request", "without a query"),
        "left_out": ("hit", "left out: not in the data"),
    }
    for name, (noun, remark) in remarks.items():
        if counts[name]:
            console.print(f"{counted(counts[name], noun)} {remark}", style="yellow")
