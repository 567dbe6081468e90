"""`ablate` and `sensitivity`: how far results depend on the way of asking, and of measuring."""

from __future__ import annotations

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    RUN_HELP,
    AsJson,
    Concurrency,
    Data,
    DryRun,
    Limit,
    MaxCost,
    MaxTokensTotal,
    Metrics,
    NamedIn,
    Quiet,
    RunsDir,
    ServeEach,
    Settings,
    find_runs_named,
    listed,
    note_fields_of,
)
from qilin_rag.cli.plan import print_plans
from qilin_rag.cli.results import as_csv
from qilin_rag.cli.signals import Interrupted
from qilin_rag.cli.sweep import check_swept
from qilin_rag.core.downloads import no_downloads
from qilin_rag.core.errors import UsageError
from qilin_rag.core.note_fields import note_fields_label
from qilin_rag.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qilin_rag.config.run import RunConfig
    from qilin_rag.core.types import Frozen
    from qilin_rag.pipeline.sweep import Swept
    from qilin_rag.reports.sections import Section


class TextFormat(StrEnum):
    """Formats of a report."""

    table = "table"
    md = "md"
    csv = "csv"


Written = Annotated[TextFormat, typer.Option("--format", help="Format of the report.")]


def ablate(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="YAML file of a sweep, or its name in configs/.")
    ] = None,
    retrievers: Annotated[str | None, typer.Option(help="Retrievers, separated by commas.")] = None,
    llms: Annotated[str | None, typer.Option(help="LLMs, separated by commas; two or more are also ranked.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompts, the default first: default,concise,cite.")] = None,
    top_k: Annotated[str | None, typer.Option(help="Numbers of notes, the default first: 5,1,3,10.")] = None,
    note_fields: Annotated[
        str | None,
        typer.Option(help="Fields of notes, the default first: title+content,title+content+image_text."),
    ] = None,
    note_order: Annotated[
        str | None, typer.Option(help="Orders of notes, the default first: best_first,best_last,shuffled.")
    ] = None,
    note_chars: Annotated[
        str | None, typer.Option(help="Characters of each note, the default first: whole,200,100.")
    ] = None,
    note_images: Annotated[
        str | None, typer.Option(help="Numbers of images of each note, the default first: 0,1,3.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="Query stages, the default first: none,rewrite,hyde,multi.")] = None,
    noise: Annotated[
        str | None, typer.Option(help="Numbers of wrong notes (retriever mixed), the default first: 0,1,2,4.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Metric to compare.")] = "rouge_l",
    saved: Annotated[
        bool, typer.Option("--saved", help="Report on the complete runs of --runs-dir; ask no LLM, read no data.")
    ] = False,
    data: Data = None,
    metrics: Metrics = None,
    limit: Limit = None,
    concurrency: Concurrency = None,
    serve: ServeEach = False,
    runs_dir: RunsDir = None,
    settings: Settings = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens_total: MaxTokensTotal = None,
    output_format: Written = TextFormat.table,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Vary the prompt or the notes, one factor at a time.

    The first of each list is the default. Makes the default run and one run for each other level of a factor, compares
    each with the default, and tells if the order of systems depends on the level.

    Examples:
        qilin-rag ablate --retrievers bm25 --prompts default,concise --limit 5
        qilin-rag ablate --retrievers bm25 --llms extractive --top-k 5,1,3 --dry-run
        qilin-rag ablate --prompts default,concise --saved --format md
    """
    from qilin_rag.pipeline.sweep import AXES, FACTORS, NOISE, QUERY, plan_sweep, read_sweep
    from qilin_rag.reports.ablation import ablation, as_rows, default_settings, saved_runs
    from qilin_rag.reports.measured import read_runs
    from qilin_rag.reports.sections import ablation_sections

    ui.set_up_logs(quiet or as_json)
    given = {"retrievers": retrievers, "llms": llms, "prompts": prompts, QUERY: query}
    axes: dict[str, list[Any]] = {axis: listed(axis, names) for axis, names in given.items() if names is not None}
    if top_k is not None:
        axes["top_k"] = [_number("--top-k", name) for name in listed("top-k", top_k)]
    if note_fields is not None:
        axes["note_fields"] = [note_fields_label(note_fields_of(name)) for name in listed("note-fields", note_fields)]
    if note_order is not None:
        axes["note_order"] = list(listed("note-order", note_order))
    if note_chars is not None:
        named = listed("note-chars", note_chars)
        axes["note_chars"] = [None if name == "whole" else _number("--note-chars", name) for name in named]
    if note_images is not None:
        axes["note_images"] = [_number("--note-images", name) for name in listed("note-images", note_images)]
    if noise is not None:
        axes[NOISE] = [_number("--noise", name) for name in listed("noise", noise)]
        if retrievers is None and config is None and not saved:
            axes["retrievers"] = ["mixed"]
    if saved:
        of_new_runs = {
            "CONFIG": config,
            "--data": data,
            "--metrics": metrics,
            "--limit": limit,
            "--concurrency": concurrency,
            "--serve": serve or None,
            "--set": settings,
            "--dry-run": dry_run or None,
            "--max-cost": max_cost,
            "--max-tokens-total": max_tokens_total,
        }
        if unused := next((name for name, value in of_new_runs.items() if value is not None), None):
            raise UsageError(f"--saved reads the runs of --runs-dir as they are, so it takes no {unused}; leave it out")
        swept = None
        wanted = {AXES[axis]: values for axis, values in axes.items()}
        runs, left_out = saved_runs([runs_dir or Path("runs")], wanted)
        of_their_own = (NOISE, QUERY)  # their runs need a retriever or an LLM of a kind
        plain = {axis: values[:1] for axis, values in axes.items() if axis in FACTORS and axis not in of_their_own}
        settings_at_default = default_settings(read_sweep(None, plain, {})[0])
        settings_at_default |= {axis: axes[axis][0] for axis in of_their_own if axis in axes}
    else:
        flags = {
            "data": data,
            "metrics": metrics,
            "limit": limit,
            "concurrency": concurrency,
            "serve": serve or None,
            "runs_dir": runs_dir,
            "max_cost": max_cost,
            "max_tokens_total": max_tokens_total,
        }
        configs = read_sweep(config, axes, flags, settings or [], one_factor=True)
        with no_downloads() if dry_run else nullcontext():
            _check_comparable(configs, metric)
        if dry_run:
            print_plans(plan_sweep(configs), as_json)
            return
        swept = _sweep(configs, quiet)
        if swept.failures:
            check_swept(swept, configs[0].fail_on_error)
        runs, left_out = read_runs([run.directory.path for run in swept.runs])
        settings_at_default = default_settings(configs[0])
    reports = ablation(runs, settings_at_default, metric)
    if left_out:
        last = reports[-1]
        reports[-1] = last.model_copy(update={"notes": [*last.notes, *left_out]})
    _print(reports, ablation_sections(reports), as_rows(reports), output_format, as_json)
    if swept:
        check_swept(swept, configs[0].fail_on_error)


def sensitivity(
    run_directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help=f"Runs over the same questions, each: {RUN_HELP[0].lower()}{RUN_HELP[1:]}"
        ),
    ],
    metrics: Metrics = None,
    layers: Annotated[
        str | None,
        typer.Option(help="BERTScore layers to try, separated by commas. [default: up to two above and below]"),
    ] = None,
    runs_dir: NamedIn = None,
    settings: Settings = None,
    output_format: Written = TextFormat.table,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Rank saved runs again by variants of a metric.

    Variants differ in tokens, in what is stripped, in BERTScore's layer, and in how several references count. Asks no
    LLM and writes nothing into the runs.

    Examples:
        qilin-rag sensitivity runs/RUN_A runs/RUN_B --metrics rouge_l,chrf
        qilin-rag sensitivity runs/RUN_A runs/RUN_B --metrics bertscore --layers 4,6
    """
    from qilin_rag.config.run import resolve_metrics
    from qilin_rag.pipeline.scoring import check_names, usable_scorers
    from qilin_rag.reports.measured import read_run
    from qilin_rag.reports.sections import sensitivity_sections
    from qilin_rag.reports.sensitivity import as_rows
    from qilin_rag.reports.sensitivity import sensitivity as sensitivity_of

    ui.set_up_logs(quiet or as_json)
    scorers, named_optional = resolve_metrics(metrics, settings or [])
    tried = [_number("--layers", name) for name in listed("layers", layers)] if layers is not None else []
    check_names(scorers.values())
    runs = [read_run(path, str(path)) for path in dict.fromkeys(find_runs_named(run_directories, runs_dir))]
    optional, _ = usable_scorers(named_optional)
    reports = sensitivity_of(runs, [*scorers.values(), *optional.values()], tried)
    _print(reports, sensitivity_sections(reports), as_rows(reports), output_format, as_json)


def _number(option: str, name: str) -> int:
    if name.isdecimal():
        return int(name)
    raise UsageError(f"{option}: {name!r} is not a number; write digits, such as 5")


def _check_comparable(configs: Sequence[RunConfig], metric: str) -> None:
    """Raise UsageError, before any question is asked, if there would be nothing to compare."""
    from qilin_rag.pipeline.scoring import check_names
    from qilin_rag.pipeline.sweep import FACTORS, factor_setting

    if len({tuple(factor_setting(config, factor) for factor in FACTORS.values()) for config in configs}) == 1:
        raise UsageError(
            "nothing to compare: name two or more in --prompts, --top-k, --note-fields, --note-order, --note-chars, "
            "--note-images, --query or --noise"
        )
    scorers = configs[0].metrics.values()
    check_names(scorers)
    for top_k in sorted({config.top_k for config in configs}):
        scored = {name for scorer in scorers for name in scorer.for_run(top_k, ignores_k=False).signatures()}
        if metric not in scored | set(configs[0].optional_metrics):
            raise UsageError(
                f"--metric {metric!r} is not scored by runs of top_k {top_k}; name one of "
                f"{', '.join(sorted(scored))}, or add it to --metrics"
            )


def _sweep(configs: Sequence[RunConfig], quiet: bool) -> Swept:
    from qilin_rag.pipeline.sweep import sweep

    try:
        with ui.progress_bars(quiet):
            return sweep(configs)
    except KeyboardInterrupt:
        raise Interrupted("every finished answer is kept; the same command resumes") from None


def _print(
    reports: Sequence[Frozen],
    sections: Iterator[Section],
    rows: list[dict[str, object]],
    output_format: TextFormat,
    as_json: bool,
) -> None:
    from qilin_rag.reports.sections import as_markdown

    if as_json:
        ui.print_json([report.model_dump(mode="json") for report in reports])
    elif output_format is TextFormat.csv:
        typer.echo(printable(as_csv(rows)).rstrip("\n"))
    elif output_format is TextFormat.md:
        typer.echo(printable(as_markdown(sections)).rstrip("\n"))
    else:
        ui.print_sections(sections)
