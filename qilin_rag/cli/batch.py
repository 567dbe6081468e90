"""`batch`: list the batches that runs and judgements have at services, and cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.help import App
from qilin_rag.cli.options import AsJson
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.pipeline.kept_batches import KeptBatch

app = App("batch", help="List and cancel the batches of run --batch.", no_args_is_help=True)

Folders = Annotated[
    list[Path] | None,
    typer.Option("--runs-dir", help="Folder of runs to look in; repeatable. [default: runs]"),
]
Addresses = Annotated[
    list[str] | None,
    typer.Option("--base-url", help="Address, not that of a preset, that may be asked with the key; repeatable."),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(help="Variable that holds the key for --base-url. [default: OPENAI_API_KEY]"),
]
_OPEN = "open"


@app.command(name="list")
def list_batches(
    runs_dir: Folders = None, base_url: Addresses = None, api_key_env: KeyVariable = None, as_json: AsJson = False
) -> None:
    """List batches, as recorded and as their services say.

    Asks about a batch that has not ended if its address is that of a preset whose key is set.

    Examples:
        qilin-rag batch list
        qilin-rag batch list --runs-dir runs --json
    """
    from qilin_rag.pipeline.kept_batches import ask_states, find_batches, known_addresses

    known = known_addresses(base_url or (), api_key_env)
    batches = ask_states(find_batches(_folders(runs_dir)), known)
    if as_json:
        ui.print_json([_record_of(kept) for kept in batches])
        return
    if not batches:
        typer.echo("no batches; qilin-rag run --batch makes one")
        return
    by_directory: dict[Path, list[KeptBatch]] = {}
    for kept in batches:
        by_directory.setdefault(kept.directory, []).append(kept)
    for number, (directory, own) in enumerate(by_directory.items()):
        _print_batches(directory, own, is_first=number == 0)


@app.command(name="cancel")
def cancel_batches(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ID", help="A run or judgement, or a batch; the beginning is enough.", show_default=False
        ),
    ],
    runs_dir: Folders = None,
    base_url: Addresses = None,
    api_key_env: KeyVariable = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a batch, or those of a run that are not done.

    Keeps the replies there are: the command that made the batch fetches them.

    Examples:
        qilin-rag batch cancel batch_67f5
        qilin-rag batch cancel runs/RUN
    """
    from qilin_rag.pipeline.kept_batches import cancel_batch, find_batches, known_addresses

    known = known_addresses(base_url or (), api_key_env)
    meant = _meant(name, find_batches(_folders(runs_dir, name)))
    done: list[KeptBatch] = []
    try:
        done.extend(cancel_batch(kept, known) for kept in meant)
    finally:  # show the batches that were cancelled even if a later one can't be
        if as_json:
            ui.print_json([_record_of(kept) for kept in done])
        else:
            for kept in done:
                ui.console().print(_told(kept))


def _folders(given: Sequence[Path] | None, name: str = "") -> list[Path]:
    """Return the folders to look in: as given, else the one that the name of a run is in, else `runs`."""
    from qilin_rag.reports.finding import DEFAULT_FOLDER

    if given:
        return list(given)
    path = Path(name)
    if name and path.is_dir():
        return [path]
    return [path.parent if name and len(path.parts) > 1 and path.parent.is_dir() else DEFAULT_FOLDER]


def _meant(name: str, batches: Sequence[KeptBatch]) -> list[KeptBatch]:
    """Return the batches that a name stands for.

    Raises:
        UsageError: if there is none, or it may be several things.
    """
    from qilin_rag.reports.finding import is_meant

    part = Path(name).name or name
    if own := [kept for kept in batches if kept.directory.resolve() == Path(name).resolve()]:
        return own
    by_id = [kept for kept in batches if kept.id == name] or [kept for kept in batches if kept.id.startswith(name)]
    directories = dict.fromkeys(kept.directory for kept in batches if is_meant(part, kept.directory.name))
    if directories and any(directory.name == part for directory in directories):
        directories = {directory: None for directory in directories if directory.name == part}
    candidates = [kept.id for kept in by_id] + [str(directory) for directory in directories]
    if not candidates:
        raise UsageError(f"no batch and no run with batches begins with {name!r}; to see them: qilin-rag batch list")
    if len(candidates) > 1:
        raise UsageError(f"{name!r} may be any of {len(candidates)}; write more of it: {', '.join(candidates[:5])}")
    return by_id or [kept for kept in batches if kept.directory in directories]


def _print_batches(directory: Path, batches: Sequence[KeptBatch], is_first: bool) -> None:
    """Print the batches of one run or judgement, in 80 columns."""
    from rich import box
    from rich.table import Table

    services = ", ".join(dict.fromkeys(kept.entry.record.service for kept in batches))
    console = ui.console()
    if not is_first:
        console.print()
    console.print(f"{directory.name} ({services})", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("batch", overflow="ellipsis")  # the column that gives way
    for name in ("recorded", "now"):
        table.add_column(name, no_wrap=True, min_width=10)
    for name in ("done", "age"):
        table.add_column(name, justify="right", no_wrap=True, min_width=8)
    for kept in batches:
        record, now = kept.entry.record, kept.now
        n_done = record.done + record.failed if now is None else now.n_done + now.n_failed
        said = "-" if kept.has_ended else "?" if now is None else now.said
        table.add_row(kept.id, kept.recorded, said, f"{n_done:,} of {record.requests:,}", _age(kept.age_s))
    console.print(table, width=ui.WIDTH_CHARS if console.width < 100 else None)
    for why_not in dict.fromkeys(kept.why_not for kept in batches if kept.why_not):
        console.print(f"?: {why_not}", style="yellow")


def _told(kept: KeptBatch) -> str:
    """Say what became of a batch that was to be cancelled."""
    record, now = kept.entry.record, kept.now
    if kept.has_ended or (now is not None and now.status not in (_OPEN, "cancelled")):
        how = now.said if now is not None else record.said or record.state
        return f"batch {kept.id} has ended ({how}); there is nothing to cancel"
    if now is None:
        return f"batch {kept.id}: {kept.why_not}; there is nothing to cancel"
    replies = counted(now.n_done, "reply", "replies")
    return f"batch {kept.id} is {now.said}: {replies} so far, which the command that made it fetches"


def _age(seconds: float | None) -> str:
    """Write an age in its largest unit."""
    if seconds is None:
        return "?"
    minutes = max(0, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"


def _record_of(kept: KeptBatch) -> dict[str, Any]:
    """Return the JSON record of a batch."""
    record, now = kept.entry.record, kept.now
    return {
        "directory": str(kept.directory),
        "batch_id": record.batch_id,
        **record.model_dump(mode="json", include={"service", "base_url", "model", "file_name", "requests", "created"}),
        "recorded": kept.recorded,
        "done": record.done if now is None else now.n_done,
        "failed": record.failed if now is None else now.n_failed,
        "now": None if now is None else now.said,
        "why_not_known": kept.why_not or None,
        "age_s": None if kept.age_s is None else round(kept.age_s),
    }
