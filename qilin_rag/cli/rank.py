"""`train` and `rank`: train and evaluate rankers of search and recommendation."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    AsJson,
    NoteFields,
    QilinTables,
    Quiet,
    RunsDir,
    TaskOption,
    Track,
    Verbose,
    log_settings,
    note_fields_of,
    qilin_tables,
)
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.errors import UsageError, naming_file, unknown_name
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qilin_rag.data.log_settings import LogSettings
    from qilin_rag.data.requests import ByAnswer
    from qilin_rag.rankers.differences import SliceDifference
    from qilin_rag.rankers.ranking_directory import RankingSummary, SliceSummary
    from qilin_rag.rankers.run import Ranking

_SLICE_FIGURES = ("mrr@10", "map@10", "ndcg@10", "recall@10", "precision@10")
_AMONG_THEMSELVES = "Only these notes of each request, ranked among themselves"


class Part(StrEnum):
    """Splits of a task."""

    test = "test"
    validation = "validation"
    dqa = "dqa"
    answered = "answered"
    unanswered = "unanswered"
    last = "last"


class TrainOn(StrEnum):
    """Requests to train on."""

    all = "all"
    answered = "answered"
    unanswered = "unanswered"


class Missing(StrEnum):
    """Ways to treat candidates whose note is not in the data."""

    error = "error"
    skip = "skip"


RankerSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the ranker, ranker.KEY=VALUE (see: list rankers NAME), or how to read requests: "
        "log.search_shift_s=28800, log.session_gap_s=1800, log.position_zero=top.",
    ),
]
MissingNotes = Annotated[
    Missing, typer.Option(help="Candidates whose note is not in the data: error, or skip (leave out and count).")
]


def rank(
    ranker: Annotated[
        str | None,
        typer.Option(help="A ranker (see: list rankers), or package.module:Class. [default: that of --checkpoint]"),
    ] = None,
    task: Annotated[TaskOption, typer.Option(help="Requests to rank.")] = TaskOption.search,
    data: QilinTables = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder that `train` wrote.")] = None,
    split: Annotated[
        Part,
        typer.Option(
            help="test, validation (the latest requests of train), dqa (the searches of the table dqa), its latest "
            "fifth: answered (those with an answer) or unanswered; or last (each user's last test request "
            "with a click).",
        ),
    ] = Part.test,
    first: Annotated[
        int | None, typer.Option(min=1, help="Rank only the first N requests by id; the paper's code took 1000.")
    ] = None,
    candidates: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Notes to rank: exposed (what the user saw), recorded:bm25 or recorded:dpr (the 100 that Qilin "
            "records), sampled:N or sampled:N:popularity (each click against N other notes), or trec:FILE.",
        ),
    ] = "exposed",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of sampled candidates. [default: 0]")] = None,
    settings: RankerSettings = None,
    missing_notes: MissingNotes = Missing.error,
    note_fields: NoteFields = None,
    runs_dir: RunsDir = None,
    track: Track = None,
    slices: Annotated[
        bool,
        typer.Option("--slices", help="Also print figures by kinds of notes, of queries and of places in sessions."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Rank again even if a complete run exists.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Rank the results of each request and score the clicks.

    Ranks the results that the user saw, or other `--candidates`. Writes a TREC run, the figures of each request, their
    means and slices; `leaderboard --task` compares such runs.

    Examples:
        qilin-rag rank --ranker bm25 --task search --data data/Qilin
        qilin-rag rank --checkpoint bi --task search --data data/Qilin --slices
        qilin-rag rank --ranker bm25 --data data/Qilin --candidates sampled:99
    """
    from qilin_rag.pipeline.hooks.calling import call_ended, check_hooks, split_names
    from qilin_rag.rankers.ranking_directory import RankConfig
    from qilin_rag.rankers.run import make_ranker
    from qilin_rag.rankers.run import rank as rank_requests

    ui.set_up_logs(quiet or as_json, verbose)
    if seed is not None and not candidates.startswith("sampled"):
        raise UsageError("--seed is for --candidates sampled:N; the seed of a ranker is --set ranker.seed=N")
    of_ranker, of_log = _settings(settings, ranker)
    check_hooks(hooks := split_names(track or []))
    made = make_ranker(ranker, checkpoint, of_ranker)
    config = RankConfig(
        data=qilin_tables(data),
        task=task.value,
        split=split.value,
        first=first,
        candidates=candidates,
        seed=seed or 0,
        missing_notes=missing_notes.value,
        note_fields=note_fields_of(note_fields),
        log=of_log,
        runs_dir=runs_dir or Path("runs"),
        fresh=fresh,
    )
    try:
        with ui.progress_bars(quiet or as_json):
            done = rank_requests(made, config)
            call_ended(hooks, done.directory.path)
    except KeyboardInterrupt:
        raise Interrupted("only the manifest was written; the same command begins again") from None
    if as_json:
        ui.print_json({"run": str(done.directory.path), **done.summary.model_dump(mode="json")})
        return
    _print(done, slices)


def train(
    config: Annotated[
        str,
        typer.Argument(
            metavar="RANKER|CONFIG",
            help="A ranker (see: list rankers), package.module:Class, one of configs/rankers/, or a YAML file.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; training resumes from checkpoints in it.")],
    task: Annotated[
        str, typer.Option(help="Requests to train on: search, recommendation, or search,recommendation.")
    ] = "search",
    data: QilinTables = None,
    requests: Annotated[
        TrainOn,
        typer.Option(
            help="all (the train table), or the earlier searches of the table dqa: answered (those with an answer) or "
            "unanswered."
        ),
    ] = TrainOn.all,
    settings: RankerSettings = None,
    without: Annotated[
        str | None,
        typer.Option(help="Features to hide from the ranker, separated by commas, if it can leave them out."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Train on only N requests, drawn with a seed; a larger N keeps them.")
    ] = None,
    missing_notes: MissingNotes = Missing.error,
    note_fields: NoteFields = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Train a ranker on the clicks of the training log.

    The same command resumes from the last checkpoint. Never reads the test tables. For several GPUs or machines, use
    `torchrun -m qilin_rag train ...` or `accelerate launch -m qilin_rag train ...`.

    Examples:
        qilin-rag train biencoder --task search --data data/Qilin --out bi
        qilin-rag train dcn_v2_search --data data/Qilin --out dcn --without counts
        qilin-rag train crossencoder_search --data data/Qilin --out cross --limit 1000
    """
    from qilin_rag.core.registry import RANKERS
    from qilin_rag.rankers.run import parse_tasks
    from qilin_rag.rankers.run import train as train_on

    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    ui.set_up_logs(quiet or as_json or not is_first, verbose)
    fields = note_fields_of(note_fields)
    name, of_config, path = _read_config(config)
    of_ranker, of_log = _settings(settings, name)
    given = of_config | of_ranker
    if without is not None:
        given["without"] = [each.strip() for each in without.split(",") if each.strip()]
    with naming_file(path, lambda: RANKERS.create(name, of_config)):
        ranker = RANKERS.create(name, given)
    try:
        with ui.progress_bars(quiet or as_json or not is_first):
            kinds: dict[TrainOn, ByAnswer] = {TrainOn.answered: "answered", TrainOn.unanswered: "unanswered"}
            tasks, tables = parse_tasks(task), qilin_tables(data)
            trained = train_on(
                ranker, tasks, tables, out, limit, missing_notes.value, of_log, fields, kinds.get(requests)
            )
    except KeyboardInterrupt:
        raise Interrupted(f"the checkpoints in {out} are kept; the same command resumes from the last one") from None
    if not is_first:
        return
    if as_json:
        ui.print_json(trained._asdict() | {"out": str(trained.out)})
        return
    typer.echo(f"MRR@10 on validation {trained.mrr_at_10:.4f}, step {trained.step} of {trained.n_steps}")
    typer.echo(trained.out)


def _settings(assignments: Sequence[str] | None, ranker: str | None) -> tuple[dict[str, Any], LogSettings]:
    """Parse `--set ranker.KEY=VALUE` and `--set log.KEY=VALUE`."""
    from qilin_rag.config.overrides import parse_overrides
    from qilin_rag.core.registry import RANKERS

    cls = RANKERS.resolve(ranker) if ranker else None
    ranker_settings = {}
    log_assignments = [assignment for assignment in assignments or [] if assignment.startswith("log.")]
    for path, value in parse_overrides(
        (each for each in assignments or [] if each not in log_assignments), lambda path: cls
    ):
        match path:
            case ["ranker", key]:
                ranker_settings[key] = value
            case _:
                raise unknown_name("setting", ".".join(path), ["ranker.KEY and log.KEY"])
    return ranker_settings, log_settings(log_assignments)


def _read_config(name: str) -> tuple[str, dict[str, Any], Path | None]:
    """Return the name of a ranker; its settings and their file if `name` is a YAML file or one of configs/rankers."""
    from qilin_rag.config.resources import find_resource, read_yaml, resource_names
    from qilin_rag.core.registry import RANKERS

    if name in RANKERS.table() or (":" in name and not name.endswith((".yaml", ".yml"))):
        return name, {}, None
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in resource_names("configs/rankers"):
        path = find_resource("configs/rankers", name)
    else:
        raise unknown_name("ranker", name, [*RANKERS.table(), *resource_names("configs/rankers")])
    settings = read_yaml(path)
    ranker = settings.pop("name", None)
    if ranker not in RANKERS.table():
        raise UsageError(f"{path}: name must be one of {', '.join(RANKERS.table())}; got {ranker!r}")
    if RANKERS.names_code(ranker, settings):
        raise UsageError(f"{path}: a file can't name code (package.module:NAME); name it on the command line instead")
    return ranker, settings, path


def _print(done: Ranking, with_slices: bool) -> None:
    from qilin_rag.core.registry import describe

    directory, manifest, summary = done
    console = ui.console()
    config, ranker = manifest.config, manifest.ranker
    only = "" if config.first is None else f", the first {counted(config.first, 'request')}"
    label = ranker.name if ranker.checkpoint else describe(ranker.name, ranker.changed)
    of_candidates = f", {config.of_candidates}" if config.of_candidates else ""
    console.print(f"{label}, {config.task} {config.split}{only}{of_candidates}; {manifest.label}", style="bold")
    if ranker.checkpoint:
        console.print(f"trained: {ranker.checkpoint}")
    hanging = {name: f"{ties.lowest:.4f} .. {ties.highest:.4f}" for name, ties in summary.ties.items()}
    ui.print_metrics(
        {name: each.model_copy(update={"reasons": {}}) for name, each in summary.metrics.items()},
        {"by order of ties": hanging} if hanging else None,
    )
    _print_pooled(summary)
    if with_slices:
        _print_slices(summary.slices)
        _print_differences(summary.differences)
        for remark in summary.remarks:
            console.print(remark, style="dim")
    counts = summary.counts
    unscored = f", {n:,} of them without a click and unscored" if (n := counts["without_click"]) else ""
    console.print(f"{counted(counts['requests'], 'request')}{unscored}; {counted(counts['candidates'], 'candidate')}")
    if counts["tied"]:
        console.print(
            f"{counted(counts['tied'], 'request')} with a clicked and an unclicked candidate of the same score: "
            "each figure is the mean over all orders of ties",
            style="yellow",
        )
    if counts.get("not_found"):
        console.print(
            f"{counts['not_found']:,} of {counted(counts['clicked'], 'clicked note')} not among the candidates: "
            "they count as not found",
            style="yellow",
        )
    if counts.get("without_candidates"):
        console.print(f"{counted(counts['without_candidates'], 'request')} without candidates", style="yellow")
    if counts["left_out"]:
        console.print(
            f"{counted(counts['left_out'], 'candidate')} left out: their notes are not in the data", style="yellow"
        )
    if ranker.name == "dcn-v2" and "counts" not in ranker.settings["without"]:
        console.print(
            "Counts of notes have no date: a ranker that reads them may have seen the test clicks.", style="dim"
        )
    typer.echo(directory.path)


def _print_pooled(summary: RankingSummary) -> None:
    """Print the figures of the whole set, and why others are missing."""
    from rich.table import Table

    from qilin_rag.rankers.ranking_directory import why_missing

    console = ui.console()
    table = Table("whole set", "value", "95% interval", "of", box=None, pad_edge=False, header_style="bold")
    for name, figure in summary.pooled.items():
        if figure.value is not None:
            interval = f"{figure.ci95[0]:.4f} .. {figure.ci95[1]:.4f}" if figure.ci95 else "-"
            table.add_row(name, f"{figure.value:.4f}", interval, counted(figure.n, figure.unit.removesuffix("s")))
    if table.row_count:
        console.print()
        console.print(table)
    why = why_missing(summary)
    for reason in dict.fromkeys(why.values()):
        names = ", ".join(name for name, each in why.items() if each == reason)
        console.print(f"no {names}: {reason}", style="dim")


def _print_slices(slices: Sequence[SliceSummary]) -> None:
    """Print a table of the parts, each with the number of requests that have a figure."""
    from rich.table import Table
    from rich.text import Text

    table = Table("part", box=None, pad_edge=False, header_style="bold")
    known = slices[0].figures if slices else {}
    figures = [name for name in _SLICE_FIGURES if name in known] or [name for name in known if "@" in name]
    for column in ("scored", *figures):
        table.add_column(column, justify="right")
    name = None
    for part in slices:
        if part.slice != name:
            name = part.slice
            table.add_row("")
            table.add_row(Text(name if part.of == "requests" else f"{name} *", style="bold"))
        values = [part.figures[figure].value for figure in figures]
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        table.add_row(f"  {part.label}", f"{part.figures[figures[0]].n:,}", *shown)
    console = ui.console()
    console.print()
    console.print(table)
    is_sampled = any(part.of == "clicked" for part in slices)
    said = "Only these clicked notes, each ranked against all negatives" if is_sampled else _AMONG_THEMSELVES
    console.print(f"* {said}.\n", style="dim")


def _print_differences(differences: Sequence[SliceDifference]) -> None:
    console = ui.console()
    for each in differences:
        for name, figure in each.figures.items():
            if name not in _SLICE_FIGURES:
                continue
            between = f"[{figure.ci95[0]:+.4f}, {figure.ci95[1]:+.4f}]" if figure.ci95 else figure.no_interval
            console.print(
                f"{name}, {each.slice} {each.first} minus {each.second}: {figure.value:+.4f}, 95% interval {between}, "
                f"of {figure.n_first:,} and {counted(figure.n_second, 'request')}"
            )
        console.print("This difference is between other queries, too: it is no effect of the answer.\n", style="dim")
