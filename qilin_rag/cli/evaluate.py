"""`run` and `score`: make a run, and score runs again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    RUN_HELP,
    Answers,
    AsJson,
    BaseUrl,
    Batch,
    Concurrency,
    Data,
    DryRun,
    ImageSize,
    Limit,
    LlmName,
    MaxCost,
    MaxTokensTotal,
    Metrics,
    MissingNotes,
    NamedIn,
    NoteFields,
    NoteImages,
    QueryStage,
    Quiet,
    References,
    Rerank,
    RerankDepth,
    RerankWeight,
    RetrieverName,
    RunsDir,
    Seed,
    Serve,
    Settings,
    Stream,
    Track,
    Verbose,
    find_runs_named,
)
from qilin_rag.cli.plan import print_plan
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.pipeline.finished import Run


def run(
    retriever: RetrieverName = None,
    query: QueryStage = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = None,
    rerank_weight: RerankWeight = None,
    llm: LlmName = None,
    data: Data = None,
    answers: Answers = None,
    references: References = None,
    missing_notes: MissingNotes = None,
    prompt: Annotated[
        str | None, typer.Option(help="A prompt (see: list prompts) or its YAML file. [default: default]")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Notes in each prompt; oracle gives all reference notes. [default: 5]")
    ] = None,
    note_fields: NoteFields = None,
    note_images: NoteImages = None,
    image_size: ImageSize = None,
    metrics: Metrics = None,
    limit: Limit = None,
    seed: Seed = None,
    ids: Annotated[
        Path | None, typer.Option(help="Ask only the questions whose ids are in this file, one a line.")
    ] = None,
    concurrency: Concurrency = None,
    batch: Batch = False,
    base_url: BaseUrl = None,
    stream: Stream = False,
    serve: Serve = False,
    runs_dir: RunsDir = None,
    track: Track = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with any of these settings; options override it.")
    ] = None,
    settings: Settings = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask every question again; set earlier answers aside.")
    ] = False,
    repeat: Annotated[
        int | None,
        typer.Option(help="Times to ask each question, without the cache, to count answers that change. [default: 1]"),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the cache of answers.")] = False,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens_total: MaxTokensTotal = None,
    fail_on_error: Annotated[
        float | None,
        typer.Option(
            help="Questions without an answer to accept before exit code 3: a share below 1, or a number. [default: 0]"
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Run retrieve, prompt, generate and score.

    The same command resumes its run after a stop, and asks no question twice.

    Examples:
        qilin-rag run --limit 3
        qilin-rag run --retriever oracle --top-k 3 --prompt concise --metrics rouge_l
        qilin-rag run --llm openai --base-url http://HOST:8000/v1 --set llm.model=NAME
    """
    from qilin_rag.config.run import resolve_run
    from qilin_rag.pipeline.run import check_failures
    from qilin_rag.pipeline.run import run as run_pipeline

    ui.set_up_logs(quiet or as_json, verbose)
    flags = {
        "retriever": retriever,
        "query": query,
        "rerank": rerank,
        "rerank_depth": rerank_depth,
        "rerank_weight": rerank_weight,
        "llm": llm,
        "data": data,
        "answers": answers,
        "references": references,
        "missing_notes": missing_notes,
        "prompt": prompt,
        "top_k": top_k,
        "note_fields": note_fields,
        "note_images": note_images,
        "image_size": image_size,
        "metrics": metrics,
        "limit": limit,
        "seed": seed,
        "ids": ids,
        "concurrency": concurrency,
        "batch": batch or None,
        "base_url": base_url,
        "stream": stream or None,
        "serve": serve or None,
        "runs_dir": runs_dir,
        "track": track or None,
        "fresh": fresh or None,
        "repeat": repeat,
        "cache": False if no_cache else None,
        "max_cost": max_cost,
        "max_tokens_total": max_tokens_total,
        "fail_on_error": fail_on_error,
    }
    resolved = resolve_run(flags, settings or [], config)
    if dry_run:
        from qilin_rag.pipeline.dry_run import plan

        print_plan(plan(resolved), as_json)
        return
    try:
        with ui.progress_bars(quiet):
            finished = run_pipeline(resolved)
    except KeyboardInterrupt:
        again = "the same command without --fresh" if fresh else "the same command"
        raise Interrupted(f"every finished answer is kept; {again} resumes") from None
    if as_json:
        ui.print_json(record_of(finished))
    else:
        print_run(finished)
    check_failures(finished, resolved.fail_on_error)


def score(
    run_directories: Annotated[list[Path], typer.Argument(metavar="RUN...", help=RUN_HELP)],
    metrics: Metrics = None,
    runs_dir: NamedIn = None,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score runs again, without asking an LLM.

    Keeps the scores of other metrics. Loads a metric's own model once for all runs.

    Examples:
        qilin-rag score runs/RUN --metrics rouge_1,rouge_2
        qilin-rag score runs/RUN --metrics rouge_l --set metrics.rouge_l.tokens=word
    """
    from qilin_rag.config.run import resolve_metrics
    from qilin_rag.pipeline.run import score_runs

    ui.set_up_logs(quiet or as_json)
    others = [setting for setting in settings or [] if not setting.startswith("metrics.")]
    if others:
        raise UsageError(f"--set {others[0]!r} is not a setting of a metric; score takes --set metrics.NAME.KEY=VALUE")
    scorers, optional = resolve_metrics(metrics, settings or [])
    run_directories = find_runs_named(run_directories, runs_dir)
    scored: list[Run] = []
    try:
        with ui.progress_bars(quiet or as_json):
            scored.extend(score_runs(run_directories, scorers, optional))
    finally:  # print the runs that were scored even if a later one fails
        if as_json and scored:
            records = [record_of(each) for each in scored]
            ui.print_json(records if len(run_directories) > 1 else records[0])
        elif not as_json:
            for each in scored:
                print_run(each)


def record_of(finished: Run) -> dict[str, Any]:
    """Return the JSON record of a run."""
    directory, manifest, summary = finished
    more = {name for name in ("imported", "queries") if getattr(manifest, name)}
    took = manifest.model_dump(mode="json", include={"generation_s", "times", "cost", "data_defects"} | more)
    return {"run": str(directory.path), **summary.model_dump(mode="json"), **took}


def print_run(finished: Run) -> None:
    """Print the parts of a run, its figures, counts of questions, time and cost, and last its folder."""
    from qilin_rag.pipeline.cost import describe
    from qilin_rag.scorers.summary import doubts

    directory, manifest, summary = finished
    labels = manifest.labels
    console = ui.console()
    console.print(f"{labels['retriever']} + {labels['llm']}, prompt {labels['prompt']}; {labels['data']}", style="bold")
    ui.print_metrics(summary.metrics)
    counts = ", ".join(f"{n} {status}" for status, n in summary.counts.items() if n and status != "questions")
    from_cache = f" ({summary.cached} from the cache of answers)" if summary.cached else ""
    console.print(f"{counted(summary.counts['questions'], 'question')}: {counts}{from_cache}")
    if summary.repeats:
        console.print(str(summary.repeats))
    if left_out := str(summary.left_out):
        console.print(left_out, style="yellow")
    if defects := str(manifest.data_defects):
        console.print(defects, style="yellow")
    for line in doubts(summary):
        console.print(line, style="yellow")
    for line in describe(manifest, summary):
        console.print(line, style="dim")
    typer.echo(directory.path)
