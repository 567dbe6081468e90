"""`sweep`: run a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    AsJson,
    Batch,
    Concurrency,
    Data,
    DryRun,
    Limit,
    MaxCost,
    MaxTokensTotal,
    Metrics,
    NoteFields,
    Quiet,
    Rerank,
    RerankDepth,
    RerankWeight,
    RunsDir,
    Seed,
    ServeEach,
    Settings,
    Track,
    listed,
)
from qilin_rag.cli.plan import print_plans
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.errors import CeilingError, QilinError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.pipeline.sweep import Swept


def sweep(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file with the lists of the grid, or its name in configs/.")
    ],
    retrievers: Annotated[
        str | None, typer.Option(help="Retrievers, separated by commas, in place of the file's.")
    ] = None,
    llms: Annotated[str | None, typer.Option(help="LLMs, separated by commas, in place of the file's.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompts, separated by commas, in place of the file's.")] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Add the retrievers random and oracle_top_k to compare with.")
    ] = False,
    query: Annotated[
        str | None, typer.Option(help="Query stages, separated by commas, such as none,hyde (see: list queries).")
    ] = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = None,
    rerank_weight: RerankWeight = None,
    note_fields: NoteFields = None,
    data: Data = None,
    metrics: Metrics = None,
    limit: Limit = None,
    seed: Seed = None,
    concurrency: Concurrency = None,
    batch: Batch = False,
    serve: ServeEach = False,
    runs_dir: RunsDir = None,
    track: Track = None,
    settings: Settings = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens_total: MaxTokensTotal = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a grid of retrievers, LLMs, prompts and more.

    A grid has a run for each combination of retriever, LLM, prompt, top-k, and fields, order and
    length of notes. Each retriever
    searches once, LLMs are asked one after another, and the same command resumes the grid.

    Examples:
        qilin-rag sweep small_machine --llms extractive --retrievers bm25 --limit 5
        qilin-rag sweep grid.yaml --retrievers none,bm25 --dry-run
        qilin-rag sweep table11 --data hub:THUIR/Qilin --serve
    """
    from qilin_rag.pipeline.sweep import plan_sweep, read_sweep
    from qilin_rag.pipeline.sweep import sweep as sweep_runs

    ui.set_up_logs(quiet or as_json)
    named = {"retrievers": retrievers, "llms": llms, "prompts": prompts, "query": query}
    axes = {axis: listed(axis, given) for axis, given in named.items() if given is not None}
    if note_fields is not None:
        axes["note_fields"] = [note_fields]
    flags = {
        "rerank": rerank,
        "rerank_depth": rerank_depth,
        "rerank_weight": rerank_weight,
        "data": data,
        "metrics": metrics,
        "limit": limit,
        "seed": seed,
        "concurrency": concurrency,
        "batch": batch or None,
        "serve": serve or None,
        "runs_dir": runs_dir,
        "max_cost": max_cost,
        "max_tokens_total": max_tokens_total,
        "track": track or None,
    }
    configs = read_sweep(config, axes, flags, settings or [], controls)
    if dry_run:
        print_plans(plan_sweep(configs), as_json)
        return
    try:
        with ui.progress_bars(quiet):
            swept = sweep_runs(configs)
    except KeyboardInterrupt:
        raise Interrupted("every finished answer is kept; the same command resumes") from None
    _print(swept, as_json)
    check_swept(swept, configs[0].fail_on_error)


def _print(swept: Swept, as_json: bool) -> None:
    if as_json:
        runs = [{"run": str(run.directory.path), **run.summary.model_dump(mode="json")} for run in swept.runs]
        ui.print_json({"runs": runs, "failures": [failure._asdict() for failure in swept.failures]})
        return
    from qilin_rag.cli.results import board_as_text
    from qilin_rag.reports.leaderboard import leaderboard_of

    if swept.runs:
        typer.echo(board_as_text(leaderboard_of([run.directory.path for run in swept.runs])).rstrip("\n"))


def check_swept(swept: Swept, fail_on_error: float) -> None:
    """Print each run that is not finished; raise if there is one, or if too many questions failed."""
    from qilin_rag.core.errors import FailedSamplesError
    from qilin_rag.pipeline.run import check_failures

    for failure in swept.failures:
        typer.secho(f"not finished: {failure.run}: {failure.reason}", err=True, fg="red")
    if swept.stopped is not None:
        n_runs = len(swept.runs) + len(swept.failures)
        for run in swept.runs:
            typer.echo(f"complete: {run.path}", err=True)
        raise CeilingError(f"{swept.stopped}; {len(swept.runs)} of {n_runs} runs are complete")
    if swept.failures:
        n_runs = len(swept.runs) + len(swept.failures)
        raise QilinError(f"{len(swept.failures)} of {n_runs} runs are not finished; the same command resumes them")
    failed = []
    for run in swept.runs:
        try:
            check_failures(run, fail_on_error)
        except FailedSamplesError as error:
            failed.append(error)
    if failed:
        raise FailedSamplesError(
            f"in {len(failed)} of {counted(len(swept.runs), 'run')} questions failed; the first: {failed[0]}"
        )
