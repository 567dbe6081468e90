"""Files that are nearly a table: the table that was probably meant, and how to make it readable."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from qilin_rag.data.encodings import ENCODINGS

_AS_JSONL = "write it as {table}.jsonl, one JSON object a line"
_AS_CSV = "save it as {table}.csv, in UTF-8 and separated by commas"
_ADVICE = {
    **dict.fromkeys((".json", ".json5", ".yaml", ".yml"), _AS_JSONL),
    **dict.fromkeys((".ndjson", ".jl", ".jsonlines"), "rename it to {table}.jsonl"),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers", ".tsv", ".tab", ".txt"), _AS_CSV),
    **dict.fromkeys((".feather", ".ipc"), "rename it to {table}.arrow"),
    ".pq": "rename it to {table}.parquet",
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz"), "unpack it"),
    **dict.fromkeys((".pkl", ".pickle", ".db", ".sqlite", ".h5", ".npy", ".npz"), _AS_JSONL),
}
_LIKE = 0.75
_MOST_LOOKED_AT = 1000


def near_miss(folder: Path, tables: Sequence[str]) -> str:
    """Name a file, in the folder or one level below, that is nearly one of these tables, to end an error."""
    paths = list(_entries(folder))
    for path in paths:
        if (table := _meant(path, tables)) and (advice := _advice(path, table)):
            return f"; there is {path.name}: {advice}"
    for below in filter(Path.is_dir, paths):
        if any(_meant(path, tables) == path.stem and path.suffix[1:] in ENCODINGS for path in _entries(below)):
            return f"; it is in the folder {str(below)!r}: give that"
    return ""


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())[:_MOST_LOOKED_AT]
    except OSError:
        return


def _meant(path: Path, tables: Sequence[str]) -> str | None:
    """Return the table whose name this file name resembles."""
    stem = path.name.partition(".")[0].lower().replace("-", "_").strip(" _")
    near = difflib.get_close_matches(stem, tables, n=1, cutoff=_LIKE)
    return near[0] if near else None


def _advice(path: Path, table: str) -> str | None:
    """Return how to make a table of this file."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return None if path.name == table else f"rename it to {table}"
    if suffix in _ADVICE:
        return _ADVICE[suffix].format(table=table)
    if suffix.removeprefix(".") in ENCODINGS and path.name != f"{table}{suffix}":
        return f"rename it to {table}{suffix}"
    return f"give it the suffix of what it is: .{', .'.join(ENCODINGS)}" if not suffix else None
