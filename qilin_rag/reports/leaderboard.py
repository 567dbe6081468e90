"""The leaderboard: LLM x retriever, one block a metric, over all complete runs of a folder, and how sure it is.

Figures stand in one table only where they were measured on the same questions: each set of questions gets its own,
unless `common` asks for those that all runs have. Every figure has its interval; the best of a column is compared with
each other one, question by question, and what is not significantly worse is marked as tied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qilin_rag.errors import UsageError
from qilin_rag.reports.cells import Block, Cell, Key, Kind, Spending, Table, compared, detectable
from qilin_rag.reports.controls import control_runs
from qilin_rag.reports.measured import Measured, clusters_of, find_runs, highest_is_best, read_runs, values_of
from qilin_rag.reports.paper import REMARK, paper_rows
from qilin_rag.reports.places import column_order, natural, row_labels
from qilin_rag.scoring import remarks
from qilin_rag.stats import Clusters, Values
from qilin_rag.types import Cost, Frozen

At = tuple[str, str]  # row, column


class Options(Frozen):
    """What a leaderboard shows.

    `common`: all runs over the same data in one table, over the questions that all of them have; incomplete ones, too.
    `controls`: rows that tell what a figure is worth (see `controls`). `paper`: the paper's figures as rows.
    `cluster_by`: the field of the questions' meta that makes clusters, instead of the query.
    """

    common: bool = False
    controls: bool = False
    paper: bool = False
    cluster_by: str | None = None


class _Grid(NamedTuple):
    """The runs of one block by place; `competing` places are compared with the best."""

    metric: str
    signature: str
    runs: dict[At, Measured]
    competing: set[At]


def leaderboard(*runs_dirs: Path, options: Options | None = None) -> list[Table]:
    """The tables of folders of runs, one for each data set and set of questions; largest first."""
    found = find_runs(runs_dirs)
    why = f"{', '.join(map(str, runs_dirs))} holds no complete run"
    return _tables(found, options or Options(), f"{why}{{}}; begin with: qilin-rag run")


def leaderboard_of(run_directories: Sequence[Path], options: Options | None = None) -> list[Table]:
    """The tables of these runs alone; there must be a complete one among them."""
    return _tables(run_directories, options or Options(), "none of these runs is complete{}")


def _tables(run_directories: Sequence[Path], options: Options, none_found: str) -> list[Table]:
    runs, left_out = read_runs(run_directories, with_incomplete=options.common)
    if not runs:
        raise UsageError(none_found.format(f" ({left_out[0]})" if left_out else ""))
    groups: dict[tuple[str, ...], list[Measured]] = defaultdict(list)
    for run in runs:
        of_questions = () if options.common else (run.manifest.question_set_sha256,)
        groups[run.manifest.data["sha256"], *of_questions].append(run)
    ordered = sorted(groups.values(), key=lambda group: (-len(group[0].questions), group[0].name))
    tables = [_table(group, options) for group in ordered]
    tables[-1] = tables[-1].model_copy(update={"notes": [*tables[-1].notes, *left_out]})
    return tables


def _table(group: Sequence[Measured], options: Options) -> Table:
    shared = set(group[0].questions)
    for run in group[1:]:
        if not (shared := shared & set(run.questions)):
            raise UsageError(f"{group[0].name} and {run.name} have no question that all runs have; leave one out")
    ids = [question_id for question_id in group[0].questions if question_id in shared]
    clusters = clusters_of([group[0].questions[question_id] for question_id in ids], options.cluster_by)
    rows = row_labels(group)
    row_order = sorted({row for run in group for row in rows[run.name]}, key=natural)
    notes = _footnotes(group, len(ids))
    controls: list[tuple[str, Measured, Measured]] = []
    if options.controls:
        controls, lacking = control_runs(group, ids)
        notes += lacking
    if options.paper:
        notes.append(REMARK)
    grids = _grids(group, rows, controls)
    own_rows = [*row_order, *sorted({row for grid in grids for row, _ in grid.runs} - set(row_order), key=natural)]
    first_rows = sorted(group, key=lambda run: (row_order.index(rows[run.name][0]), column_order(_column(run))))
    return Table(
        data=group[0].manifest.labels["data"],
        n_questions=len(ids),
        n_clusters=len(np.unique(clusters)),
        blocks=_blocks(grids, ids, clusters, own_rows, options.paper),
        notes=notes,
        spending=[_spending(run, rows[run.name][0]) for run in first_rows],
    )


def _grids(
    group: Sequence[Measured], rows: Mapping[str, Sequence[str]], controls: Sequence[tuple[str, Measured, Measured]]
) -> list[_Grid]:
    """A grid for each metric and signature; retrieval figures last."""
    metrics = list(dict.fromkeys(metric for run in group for metric in run.summary.metrics))
    grids = []
    for metric in sorted(metrics, key=lambda name: ("@" in name, metrics.index(name))):
        for signature in dict.fromkeys(found for run in group if (found := run.signature(metric))):
            places = {
                (row, _column(run)): run
                for run in group
                if run.signature(metric) == signature
                for row in rows[run.name]
            }
            of_controls = {
                (f"{row} · {what}", _column(run)): control
                for what, run, control in controls
                if run.signature(metric) == signature and metric in control.scores
                for row in rows[run.name]
            }
            grids.append(_Grid(metric, signature, places | of_controls, set(places)))
    return grids


def _column(run: Measured) -> str:
    return run.manifest.labels["retriever"]


def _blocks(
    grids: Sequence[_Grid], ids: Sequence[str], clusters: Clusters, row_order: Sequence[str], with_paper: bool
) -> list[Block]:
    """All blocks at once: figures of all metrics share their resamples, and comparisons their signs."""
    columns: dict[Key, Values] = {}
    for number, grid in enumerate(grids):
        runs = list({run.name: run for run in grid.runs.values()}.values())
        columns |= {
            (number, run.name): column for run, column in zip(runs, values_of(runs, grid.metric, ids).T, strict=True)
        }
    cells, pairs = compared(
        columns, [family for n, grid in enumerate(grids) for family in _families(n, grid)], clusters
    )
    blocks = []
    for number, grid in enumerate(grids):
        found = {name: cell for (of, name), cell in cells.items() if of == number}
        could_be_shown = detectable([pair for pair in pairs if pair.best[0] == number], clusters)
        quoted = paper_rows(grid.metric) if with_paper else {}
        blocks.append(_block(grid, found, could_be_shown, row_order, quoted))
    return blocks


def _families(number: int, grid: _Grid) -> list[list[Key]]:
    """The runs of each column; where there is only one row, of that row.

    Nothing is the best by a metric of which the highest is not (its signature says so).
    """
    if not highest_is_best(grid.signature):
        return []
    by_column = len({row for row, _ in grid.competing}) > 1
    families: dict[str, dict[Key, None]] = defaultdict(dict)
    for row, column in sorted(grid.competing):
        families[column if by_column else row][number, grid.runs[row, column].name] = None
    return [list(family) for family in families.values()]


def _block(
    grid: _Grid,
    cells: Mapping[str, Cell],
    could_be_shown: float | None,
    row_order: Sequence[str],
    of_paper: Mapping[str, Mapping[str, float]],
) -> Block:
    rows = [row for row in row_order if any(at == row for at, _ in grid.runs)]
    columns = sorted({column for _, column in grid.runs} | set(chain(*of_paper.values())), key=column_order)
    kinds: list[Kind] = ["run" if any(at == row for at, _ in grid.competing) else "control" for row in rows]
    measured = [
        [cells[grid.runs[row, column].name] if (row, column) in grid.runs else None for column in columns]
        for row in rows
    ]
    quoted = [
        [
            Cell(value=found[column], likely=column != "none", decimals=3) if column in found else None
            for column in columns
        ]
        for found in of_paper.values()
    ]
    return Block(
        metric=grid.metric,
        signature=grid.signature,
        rows=[*rows, *of_paper],
        kinds=[*kinds, *("paper" for _ in of_paper)],
        columns=columns,
        cells=measured + quoted,
        detectable=could_be_shown,
    )


def _spending(run: Measured, row: str) -> Spending:
    return Spending(
        llm=row,
        retriever=_column(run),
        prompt_tokens=run.summary.usage.prompt_tokens,
        completion_tokens=run.summary.usage.completion_tokens,
        uncounted=run.summary.uncounted,
        cost=run.manifest.cost or Cost(unknown="not recorded"),
        run=run.name,
    )


def _footnotes(group: Iterable[Measured], n_questions: int) -> list[str]:
    notes = []
    for run in group:
        counts = run.summary.counts
        unusual = [f"{counts[status]} {status}" for status in ("failed", "filtered", "truncated") if counts[status]]
        if unusual:
            notes.append(f"{run.name}: {', '.join(unusual)} of {counts['questions']}")
        if left_out := str(run.summary.left_out):
            notes.append(f"{run.name}: {left_out}")
        if len(run.questions) > n_questions or run.manifest.state != "complete":
            notes.append(f"{run.name} ({run.manifest.state}): {n_questions} of its {len(run.questions)} questions")
        notes += [f"{run.name}: {remark}" for remark in remarks(run.summary.metrics)]
    return notes
