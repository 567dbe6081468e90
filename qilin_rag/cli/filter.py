"""`data filter`: the paper's safety filter of notes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    AsJson,
    BaseUrl,
    Concurrency,
    DataArgument,
    DryRun,
    FailOnError,
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
    llm: Annotated[str, typer.Option(help="A preset (see: list llms), openai, gguf:FILE, langchain:SPEC.")],
    out: Annotated[Path, typer.Option(help="The filter's folder: a new one, or one to go on in.")],
    prompts: Annotated[
        str | None, typer.Option(help="Comma-separated prompts of prompts/safety. [default: all that can be asked]")
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Send the first N images of each note with it, to a vision model.")
    ] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first N notes of a seeded permutation.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Notes drawn for people to label.")] = 200,
    labels: Annotated[
        Path | None, typer.Option(help="csv or jsonl with note_idx and label: precision, recall and F1 against it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of --limit and --sample.")] = 0,
    concurrency: Concurrency = None,
    base_url: BaseUrl = None,
    serve: Serve = False,
    settings: Settings = None,
    fail_on_error: FailOnError = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Let an LLM say of each note whether it is unsafe; in doubt, it is kept.

    The same command goes on where it stopped. DIR/unsafe.jsonl names the notes to leave out, DIR/review.csv is for
    people to label.
    """
    from qilin_rag.judging.config import resolve_judge
    from qilin_rag.judging.safety_filter import filter_notes as do
    from qilin_rag.judging.safety_filter import plan_filter

    ui.set_up_logs(quiet or as_json)
    flags = {
        "llm": llm,
        "limit": limit,
        "seed": seed,
        "concurrency": concurrency,
        "base_url": base_url,
        "serve": serve or None,
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
            filtered = do(config, data, out, names, images, sample, labels)
    except KeyboardInterrupt:
        raise Interrupted("every finished judgement is kept, the same command goes on from here") from None
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
