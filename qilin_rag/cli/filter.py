"""`data filter`: label unsafe notes as the paper does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    AsJson,
    BaseUrl,
    Batch,
    Concurrency,
    DataArgument,
    DryRun,
    FailOnError,
    MaxCost,
    MaxTokensTotal,
    Quiet,
    Serve,
    Settings,
)
from qilin_rag.cli.signals import Interrupted

if TYPE_CHECKING:
    from qilin_rag.judging.safety_filter import Filtered
    from qilin_rag.judging.safety_labels import Agreement, Share


def filter_notes(
    data: DataArgument,
    llm: Annotated[str, typer.Option(help="A preset (see: list llms), openai, gguf:FILE or langchain:SPEC.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or to resume in.")],
    prompts: Annotated[
        str | None,
        typer.Option(help="Prompts of prompts/safety, separated by commas. [default: all that the LLM can answer]"),
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Send the first N images of each note to a vision model.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Label only N notes, drawn with --seed; a larger N keeps them.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Notes to draw for people to label.")] = 200,
    labels: Annotated[
        Path | None,
        typer.Option(help="csv or jsonl with note_idx and label, to compute precision, recall and F1 against."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --limit and --sample.")] = 0,
    concurrency: Concurrency = None,
    batch: Batch = False,
    base_url: BaseUrl = None,
    serve: Serve = False,
    settings: Settings = None,
    fail_on_error: FailOnError = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens_total: MaxTokensTotal = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Label unsafe notes with an LLM, as the paper does.

    Keeps a note if the LLM is uncertain. Writes the notes to leave out into OUT/unsafe.jsonl, and a sample for people
    to label into OUT/review.csv. The same command resumes after a stop.

    Examples:
        qilin-rag data filter sample --llm qwen-plus --out safe --dry-run
        qilin-rag data filter hub:THUIR/Qilin --llm qwen-plus --limit 2000 --out safe
        qilin-rag data filter mine --llm qwen-plus --out safe --labels safe/review.csv
    """
    from qilin_rag.judging.config import resolve_judge
    from qilin_rag.judging.safety_filter import filter_notes as run_filter
    from qilin_rag.judging.safety_filter import plan_filter

    ui.set_up_logs(quiet or as_json)
    flags = {
        "llm": llm,
        "limit": limit,
        "seed": seed,
        "concurrency": concurrency,
        "batch": batch or None,
        "base_url": base_url,
        "serve": serve or None,
        "max_cost": max_cost,
        "max_tokens_total": max_tokens_total,
        "fail_on_error": fail_on_error,
    }
    config = resolve_judge(flags, settings or [], "data filter")
    names = None if prompts is None else [name.strip() for name in prompts.split(",") if name.strip()]
    if dry_run:
        from qilin_rag.cli.plan import print_plan
        from qilin_rag.core.downloads import no_downloads

        with no_downloads():
            planned = plan_filter(config, data, out, names, images)
        print_plan(planned, as_json, subject="judgement")
        return
    try:
        with ui.progress_bars(quiet):
            filtered = run_filter(config, data, out, names, images, sample, labels)
    except KeyboardInterrupt:
        raise Interrupted("every finished judgement is kept; the same command resumes") from None
    if as_json:
        ui.print_json({"out": str(out), **filtered.summary.model_dump(mode="json")})
    else:
        _print(filtered)
    filtered.check_failures(config.fail_on_error)


def _print(filtered: Filtered) -> None:
    from rich.table import Table

    from qilin_rag.pipeline.cost import say_tokens

    console, summary = ui.console(), filtered.summary
    console.print(f"judged by {summary.llm}", style="bold")
    table = Table("prompt", box=None, pad_edge=False, header_style="bold")
    for column in ("true", "false", "uncertain", "failed", "empty", "no images", "not asked"):
        table.add_column(column, justify="right")
    for name, counts in summary.by_prompt.items():
        uncertain = sum(counts.uncertain.values())
        figures = (
            counts.true,
            counts.false,
            uncertain,
            counts.failed,
            counts.empty,
            counts.no_images,
            counts.not_asked,
        )
        table.add_row(name, *(f"{figure:,}" for figure in figures))
    console.print(table)
    console.print(", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in summary.notes.items()) + " (notes)")
    if summary.images_left_out:
        reasons = ", ".join(f"{n:,} {why}" for why, n in summary.images_left_out.items())
        console.print(f"images that could not be read: {reasons}", style="yellow")
    if summary.agreement:
        _print_agreement(summary.agreement)
    console.print(say_tokens(filtered.spent, summary.cost), style="dim")
    typer.echo(filtered.path)


def _print_agreement(agreement: dict[str, Agreement]) -> None:
    from rich.table import Table

    table = Table("against labels", box=None, pad_edge=False, header_style="bold")
    for column in ("precision", "recall", "F1", "not judged"):
        table.add_column(column, justify="right")
    for name, figures in agreement.items():
        shares = (figures.precision, figures.recall, figures.f1)
        table.add_row(name, *map(_written, shares), f"{figures.not_judged:,}")
    ui.console().print(table)


def _written(share: Share | None) -> str:
    return "-" if share is None else f"{share.value:.3f} ({share.ci95[0]:.3f} .. {share.ci95[1]:.3f})"
