"""The leaderboard: LLM x retriever, one block a metric, over all complete runs of a folder.

Figures stand in one table only where they were measured on the same questions: each set of questions gets its own.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.cost import format_amount
from qilin_rag.errors import UsageError
from qilin_rag.scoring import remarks
from qilin_rag.store import Manifest, RunDirectory
from qilin_rag.types import Cost, Frozen, MetricSummary, Summary

RETRIEVER_ORDER = {"none": 0, "random": 1, "bm25": 2, "oracle": 9}


class Cell(Frozen):
    """One run under one metric."""

    value: float | None
    n: int
    n_unscored: int
    best: bool
    run: str


class Block(Frozen):
    """One metric: `cells[row][column]` is None where there is no such run."""

    metric: str
    signature: str
    rows: list[str]
    columns: list[str]
    cells: list[list[Cell | None]]


class Spending(Frozen):
    """Tokens of one run (without those of cached answers, nor of `uncounted` ones) and their cost."""

    llm: str
    retriever: str
    prompt_tokens: int | None
    completion_tokens: int | None
    uncounted: int
    cost: Cost
    run: str


class Table(Frozen):
    """All blocks over one set of questions, and what each run took."""

    data: str
    n_questions: int
    blocks: list[Block]
    notes: list[str]
    spending: list[Spending] = []


class _Entry(NamedTuple):
    name: str
    manifest: Manifest
    summary: Summary


def leaderboard(*runs_dirs: Path) -> list[Table]:
    """The tables of folders of runs, one for each data set and set of questions; largest first."""
    if absent := next((folder for folder in runs_dirs if not folder.is_dir()), None):
        raise UsageError(f"{absent} is not a folder of runs; begin with: qilin-rag run")
    folders = {folder.resolve(): folder for folder in runs_dirs}.values()
    entries, left_out = _read(sorted(child.parent for folder in folders for child in folder.glob("*/manifest.json")))
    if not entries:
        why = f" ({left_out[0]})" if left_out else ""
        raise UsageError(f"{', '.join(map(str, runs_dirs))} holds no complete run{why}; begin with: qilin-rag run")
    return _tables(entries, left_out)


def leaderboard_of(run_directories: Sequence[Path]) -> list[Table]:
    """The tables of these runs alone; there must be a complete one among them."""
    entries, left_out = _read(run_directories)
    if not entries:
        raise UsageError(f"none of these runs is complete ({', '.join(left_out)})")
    return _tables(entries, left_out)


def _tables(entries: Sequence[_Entry], left_out: Sequence[str]) -> list[Table]:
    groups: dict[tuple[str, str], list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.manifest.data["sha256"], entry.manifest.question_set_sha256].append(entry)
    ordered = sorted(groups.values(), key=lambda group: (-group[0].manifest.n_questions, group[0].name))
    tables = [_table(group) for group in ordered]
    tables[-1] = tables[-1].model_copy(update={"notes": [*tables[-1].notes, *left_out]})
    return tables


def _read(run_directories: Sequence[Path]) -> tuple[list[_Entry], list[str]]:
    """The complete runs, and what is to be said of the others; a name that two folders hold stands with its folder."""
    entries, left_out = [], []
    folders_with = Counter(path.name for path in run_directories)
    for path in run_directories:
        directory = RunDirectory(path)
        name = str(path) if folders_with[path.name] > 1 else path.name
        try:
            manifest = directory.read_manifest()
            if manifest.state == "complete":
                entries.append(_Entry(name, manifest, directory.read_summary()))
            else:
                left_out.append(f"left out, {manifest.state}: {name}")
        except UsageError as error:
            left_out.append(f"left out, unreadable: {error}")
    return entries, left_out


def _table(group: Sequence[_Entry]) -> Table:
    rows = _row_labels(group)
    columns = sorted({entry.manifest.labels["retriever"] for entry in group}, key=_column_order)
    metrics = dict.fromkeys(metric for entry in group for metric in entry.summary.metrics)
    signatures: dict[tuple[str, str], dict[tuple[str, str], _Entry]] = defaultdict(dict)
    for metric in sorted(metrics, key=lambda name: ("@" in name, list(metrics).index(name))):
        for entry in group:
            if metric in entry.summary.metrics:
                signature = entry.summary.metrics[metric].signature
                for row in rows[entry.name]:
                    signatures[metric, signature][row, entry.manifest.labels["retriever"]] = entry
    row_order = sorted({row for entry in group for row in rows[entry.name]}, key=_natural)
    first_rows = [(rows[entry.name][0], entry) for entry in group]
    return Table(
        data=group[0].manifest.labels["data"],
        n_questions=group[0].manifest.n_questions,
        blocks=[
            _block(metric, signature, found, row_order, columns) for (metric, signature), found in signatures.items()
        ],
        notes=_footnotes(group),
        spending=[
            _spending(entry, row) for row, entry in sorted(first_rows, key=lambda pair: row_order.index(pair[0]))
        ],
    )


def _spending(entry: _Entry, row: str) -> Spending:
    return Spending(
        llm=row,
        retriever=entry.manifest.labels["retriever"],
        prompt_tokens=entry.summary.usage.prompt_tokens,
        completion_tokens=entry.summary.usage.completion_tokens,
        uncounted=entry.summary.uncounted,
        cost=entry.manifest.cost or Cost(unknown="not recorded"),
        run=entry.name,
    )


def _block(
    metric: str,
    signature: str,
    found: dict[tuple[str, str], _Entry],
    row_order: Sequence[str],
    column_order: Sequence[str],
) -> Block:
    rows = [row for row in row_order if any(at == row for at, _ in found)]
    columns = [column for column in column_order if any(at == column for _, at in found)]
    values = {at: entry.summary.metrics[metric] for at, entry in found.items()}
    highest_is_best = not any(part.startswith("best:") for part in signature.split("|"))
    best = _best(values, by_column=len(rows) > 1) if highest_is_best else set()
    return Block(
        metric=metric,
        signature=signature,
        rows=rows,
        columns=columns,
        cells=[
            [
                Cell(
                    value=values[row, column].value,
                    n=values[row, column].n,
                    n_unscored=values[row, column].n_unscored,
                    best=(row, column) in best,
                    run=found[row, column].name,
                )
                if (row, column) in found
                else None
                for column in columns
            ]
            for row in rows
        ],
    )


def _best(values: dict[tuple[str, str], MetricSummary], by_column: bool) -> set[tuple[str, str]]:
    """The best of each column; of the one row where there is only one. What a run left unscored counts 0 here."""
    rivals: dict[str, list[tuple[float, tuple[str, str]]]] = defaultdict(list)
    for (row, column), summary in values.items():
        if summary.value is not None and summary.value_unscored_as_zero is not None:
            rivals[column if by_column else row].append((summary.value_unscored_as_zero, (row, column)))
    return {
        at
        for group in rivals.values()
        if len({value for value, _ in group}) > 1
        for value, at in group
        if value == max(value for value, _ in group)
    }


def _row_labels(group: Sequence[_Entry]) -> dict[str, list[str]]:
    """LLM; with prompt, number of notes, fingerprint, name, as far as needed to tell runs apart.

    A run that does not depend on the number of notes stands in the row of each number.
    """
    prompts = {entry.manifest.labels["prompt"] for entry in group}
    top_ks = sorted({k for entry in group if (k := entry.manifest.identity.get("top_k")) is not None})
    labels = {}
    for entry in group:
        label = entry.manifest.labels["llm"]
        if note := entry.manifest.config.get("note"):
            label += f" ({note})"
        if len(prompts) > 1:
            label += f" · {entry.manifest.labels['prompt']}"
        own_k = entry.manifest.identity.get("top_k")
        tops = [f" · top {k}" for k in top_ks if own_k in (k, None)] if len(top_ks) > 1 else [""]
        labels[entry.name] = [label + top for top in tops]
    fingerprints = {entry.name: entry.manifest.fingerprint[:8] for entry in group}
    names = {entry.name: entry.name for entry in group}
    for distinguished in (fingerprints, names):
        places = [
            (row, entry.manifest.labels["retriever"], entry.name) for entry in group for row in labels[entry.name]
        ]
        taken = Counter((row, column) for row, column, _ in places)
        for name in {name for row, column, name in places if taken[row, column] > 1}:
            labels[name] = [f"{row} · {distinguished[name]}" for row in labels[name]]
    return labels


def _natural(row: str) -> list[tuple[bool, int, str]]:
    """A sort key by which 7b stands before 72b."""
    parts = re.split(r"([0-9]+)", row)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _column_order(column: str) -> tuple[int, str]:
    """From no notes to the right notes; retrievers we don't know stand before the oracle."""
    return RETRIEVER_ORDER.get(column.split(" ")[0], RETRIEVER_ORDER["oracle"] - 1), column


def _footnotes(group: Iterable[_Entry]) -> list[str]:
    notes = []
    for entry in group:
        counts = entry.summary.counts
        unusual = [f"{counts[status]} {status}" for status in ("failed", "filtered", "truncated") if counts[status]]
        if unusual:
            notes.append(f"{entry.name}: {', '.join(unusual)} of {counts['questions']}")
        if left_out := str(entry.summary.left_out):
            notes.append(f"{entry.name}: {left_out}")
        notes += [f"{entry.name}: {remark}" for remark in remarks(entry.summary.metrics)]
    return notes


def spending_rows(table: Table) -> list[list[str]]:
    """Tokens and cost of the runs that used any, under a header; empty where none did."""
    rows = [
        [
            each.llm,
            each.retriever,
            *("unknown" if n is None else f"{n:,}" for n in (each.prompt_tokens, each.completion_tokens)),
            "unknown" if each.cost.amount is None else f"{format_amount(each.cost.amount)} {each.cost.currency or ''}",
        ]
        for each in table.spending
        if each.completion_tokens or each.uncounted
    ]
    return [["tokens", "", "prompt", "completion", "cost"], *rows] if rows else []


def as_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Plain data, for programs."""
    return [table.model_dump(mode="json") for table in tables]


def as_rows(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """One flat record a figure, for CSV."""
    spending = {each.run: each for table in tables for each in table.spending}
    return [
        {
            "data": table.data,
            "n_questions": table.n_questions,
            "metric": block.metric,
            "llm": row,
            "retriever": column,
            "value": cell.value,
            "n": cell.n,
            "n_unscored": cell.n_unscored,
            "best": cell.best,
            "run": cell.run,
            "prompt_tokens": spending[cell.run].prompt_tokens,
            "completion_tokens": spending[cell.run].completion_tokens,
            "cost": spending[cell.run].cost.amount,
            "currency": spending[cell.run].cost.currency,
            "signature": block.signature,
        }
        for table in tables
        for block in table.blocks
        for row, cells in zip(block.rows, block.cells, strict=True)
        for column, cell in zip(block.columns, cells, strict=True)
        if cell is not None
    ]


def as_markdown(tables: Sequence[Table]) -> str:
    """GitHub tables; the best figures in bold."""
    lines: list[str] = []
    for table in tables:
        lines += [f"### {_escape(table.data)}, {table.n_questions} questions", ""]
        for block in table.blocks:
            header = [block.metric, *block.columns]
            lines.append("| " + " | ".join(map(_escape, header)) + " |")
            lines.append("|---|" + "---:|" * len(block.columns))
            for row, cells in zip(block.rows, block.cells, strict=True):
                shown = [f"**{format_cell(cell)}**" if cell and cell.best else format_cell(cell) for cell in cells]
                lines.append("| " + " | ".join([_escape(row), *shown]) + " |")
            lines += ["", f"`{block.signature}`", ""]
        if spending := [f"| {' | '.join(map(_escape, cells))} |" for cells in spending_rows(table)]:
            lines += [spending[0], "|---|---|---:|---:|---:|", *spending[1:], ""]
        lines += [f"- {_escape(note)}" for note in table.notes] + [""] * bool(table.notes)
    return "\n".join(lines)


def format_cell(cell: Cell | None) -> str:
    """Four decimals; how many were scored where it was not all; `-` where there is no run."""
    if cell is None:
        return "-"
    value = "unscored" if cell.value is None else f"{cell.value:.4f}"
    return f"{value} ({cell.n}/{cell.n + cell.n_unscored})" if cell.n_unscored else value


def _escape(text: str) -> str:
    """Names come from files and flags: nothing in them may end a cell or begin markup."""
    return "".join(f"\\{char}" if char in r"\|*_`<>[]" else " " if char in "\r\n" else char for char in text)
