"""`cache`: list what is kept between runs, and free its space."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.help import App
from qilin_rag.cli.options import AsJson
from qilin_rag.core.errors import QilinError, UsageError

if TYPE_CHECKING:
    from qilin_rag.core.cache import Entry

app = App("cache", help="List and clear what is kept between runs.", no_args_is_help=True)


class CacheKind(StrEnum):
    """Kinds of entries that can be cleared, those of `KINDS`."""

    notes = "notes"
    indexes = "indexes"
    vectors = "vectors"
    archives = "archives"
    exports = "exports"
    responses = "responses"
    scores = "scores"
    figures = "figures"
    hashes = "hashes"
    servers = "servers"


OlderThan = Annotated[
    float, typer.Option(min=0, metavar="DAYS", help="Remove only what was not used for so many days.")
]


@app.command(name="ls")
def list_kept(as_json: AsJson = False) -> None:
    """List the entries of the cache folder by kind.

    Examples:
        qilin-rag cache ls
        qilin-rag cache ls --json
    """
    from qilin_rag.core.cache import KINDS, cache_dir, entries, limit_bytes

    _check_folder()
    kept = entries()
    rows: list[dict[str, Any]] = []
    for name, kind in KINDS.items():
        of_kind = [entry for entry in kept if entry.kind == name]
        rows.append(
            {
                "kind": name,
                "n": _number(of_kind),
                "n_bytes": sum(entry.n_bytes for entry in of_kind),
                "last_used": _day(max(entry.used for entry in of_kind)) if of_kind else None,
                "what": kind.what,
            }
        )
    total = sum(row["n_bytes"] for row in rows)
    if as_json:
        ui.print_json({"folder": str(cache_dir()), "n_bytes": total, "limit_bytes": limit_bytes(), "kinds": rows})
        return
    from rich.table import Table

    table = Table("kind", box=None, pad_edge=False, header_style="bold")
    for column in ("number", "size", "last use"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("contents", overflow="fold")
    for row in rows:
        table.add_row(row["kind"], str(row["n"]), _size(row["n_bytes"]), row["last_used"] or "-", row["what"])
    console = ui.console()
    console.print(table)
    console.print(f"{_size(total)} of {_size(limit_bytes())} (QILIN_RAG_CACHE_GB)")
    typer.echo(cache_dir())


@app.command(name="clear")
def clear_kept(
    kind: Annotated[
        CacheKind | None,
        typer.Argument(
            metavar="[KIND]",
            help="Kind to remove: notes, indexes, vectors, archives, exports, responses, scores, figures, hashes or "
            "servers. [default: all but responses and scores]",
            show_default=False,
        ),
    ] = None,
    older_than: OlderThan = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm the removal of responses, which cost money.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what can be made again, and print what was freed.

    Removes answers that were paid for only with `cache clear responses --yes`. Leaves what a process is using.

    Examples:
        qilin-rag cache clear
        qilin-rag cache clear indexes --older-than 30
    """
    from qilin_rag.core.cache import KINDS, cache_dir, clear, entries

    _check_folder()
    names = [name for name in KINDS if (name == kind if kind else not KINDS[name].costs_money)]
    if kind and KINDS[names[0]].costs_money and not yes:
        size = _size(sum(entry.n_bytes for entry in entries(names)))
        raise UsageError(
            f"{kind.value!r} ({KINDS[names[0]].what}, {size}) can't be made again for free; add --yes to remove them"
        )
    cleared = clear(names, older_than * 86400)
    n_bytes = sum(entry.n_bytes for entry in cleared.removed)
    faults = [entry for entry in cleared.left if entry.fault]
    if as_json:
        ui.print_json(
            {
                "folder": str(cache_dir()),
                "n_bytes": n_bytes,
                "removed": [str(entry.path) for entry in cleared.removed],
                "left": [str(entry.path) for entry in cleared.left],
                "faults": {str(entry.path): entry.fault for entry in faults},
            }
        )
    else:
        console = ui.console()
        for name in names:
            if removed := [entry for entry in cleared.removed if entry.kind == name]:
                console.print(f"{name}: {_number(removed)} removed, {_size(sum(entry.n_bytes for entry in removed))}")
        for entry in cleared.left:
            why = f"it can't be removed ({entry.fault})" if entry.fault else "it is in use, or may be written now"
            console.print(f"left, since {why}: {entry.path}", style="yellow", soft_wrap=True)
        console.print(f"{_size(n_bytes)} freed")
    if faults:
        raise QilinError(_fault(faults[0], len(faults) - 1))


def _fault(entry: Entry, n_more: int) -> str:
    """Say what can't be removed, why, and what to do."""
    if "locked" in entry.fault:
        todo = "wait until the run that writes to it has ended, then give the same command again"
    elif re.search("malformed|not a database", entry.fault):
        todo = "nothing can be read from it: remove the file by hand"
    else:
        todo = f"see who may write to {entry.path.parent}, then give the same command again"
    return f"{entry.path}{f' and {n_more} more' * bool(n_more)} can't be removed: {entry.fault}; {todo}"


def _check_folder() -> None:
    """Raise UsageError if the cache folder exists and can't be listed."""
    from qilin_rag.core.cache import cache_dir

    try:
        next(cache_dir().iterdir(), None)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not cache_dir().is_symlink():
            return
        raise UsageError(
            f"the cache folder {cache_dir()} can't be read: {error.strerror}; name another in QILIN_RAG_CACHE"
        ) from error


def _number(kept: list[Entry]) -> int:
    """Count entries, without the locks beside them."""
    return sum(entry.path.suffix != ".lock" for entry in kept)


def _day(seconds: float) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d}"


def _size(n_bytes: int) -> str:
    """Write a size in units of 1000."""
    size = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
