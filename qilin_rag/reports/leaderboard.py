"""Make the leaderboard: answers as LLM x retriever, a block for each metric, then retrievers by their figures.

Figures share a table only if they were measured on the same questions: each set of questions has its own table, unless
`common` asks for the questions that all runs have. Every figure has an interval. The best LLM of a column and the best
retriever of a row are compared with each other one, by question; a figure that is not significantly worse is marked as
tied. Each retriever is compared with no notes as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.core.figure_store import kept_figures
from qilin_rag.core.note_fields import recorded_note_fields
from qilin_rag.core.stats import Clusters, Values
from qilin_rag.core.types import Cost, Frozen, Question, Status
from qilin_rag.data.released import why_other_questions
from qilin_rag.reports.cells import (
    Block,
    Cell,
    Detectable,
    Gain,
    Key,
    Kind,
    ResultTable,
    RivalPair,
    Spending,
    Standing,
    compared,
    detectable,
    gains,
    stand,
)
from qilin_rag.reports.controls import control_runs
from qilin_rag.reports.finding import describe_rankings, find_runs
from qilin_rag.reports.judged import comparisons_of
from qilin_rag.reports.measured import Measured, RunCache, clusters_of, highest_is_best, read_runs, values_of
from qilin_rag.reports.narrowing import Narrowing, narrow_paths, narrow_runs, sort_rows
from qilin_rag.reports.paper import REMARK, Quoted, paper_rows, quote
from qilin_rag.reports.places import column_order, copies, natural, row_labels
from qilin_rag.reports.retrieval_block import RetrievalBlock
from qilin_rag.scorers.retrieval import is_about_hits
from qilin_rag.scorers.summary import can_exceed_1, doubts, remarks

At = tuple[str, str]  # row, column


class Options(Frozen):
    """The choices of a leaderboard: which runs and metrics it shows.

    `common` puts all runs over the same data, even incomplete ones, into one table over the questions that all of them
    have. `controls` adds rows that show what a figure is worth (see `controls`). `paper` adds the paper's figures if
    the questions are known to be the paper's; `paper_anyway` adds them beside other questions as well, labelled so.
    `cluster_by` is the field of the questions' meta that makes clusters, instead of the query. `narrowing` selects runs
    and metrics; `sort` is the metric by which rows are sorted.
    """

    common: bool = False
    controls: bool = False
    paper: bool = False
    paper_anyway: bool = False
    cluster_by: str | None = None
    narrowing: Narrowing = Narrowing()
    sort: str | None = None


class _Grid(NamedTuple):
    """The runs of one block of answers by place; `competing` places are compared with the best."""

    metric: str
    signature: str
    runs: dict[At, Measured]
    competing: set[At]

    @property
    def has_one_row(self) -> bool:
        """Return whether no two LLMs compete."""
        return len({row for row, _ in self.competing}) == 1

    def lines(self, axis: int) -> list[list[At]]:
        """Return the competing places of each row (axis 0) or column (1)."""
        found: dict[str, list[At]] = defaultdict(list)
        for at in sorted(self.competing):
            found[at[axis]].append(at)
        return list(found.values())


def leaderboard(*runs_dirs: Path, options: Options | None = None) -> list[ResultTable]:
    """Return the tables of folders of runs, one for each data set and set of questions; largest first."""
    found = find_runs(runs_dirs)
    why = f"{', '.join(map(str, runs_dirs))} holds no complete run"
    return _tables(found, options or Options(), f"{why}{{}}{describe_rankings(runs_dirs)}; begin with: qilin-rag run")


def leaderboard_of(
    run_directories: Sequence[Path], options: Options | None = None, cache: RunCache | None = None
) -> list[ResultTable]:
    """Return the tables of these runs only; at least one of them must be complete.

    `cache` keeps the runs and their comparisons, so that the next call reads only what has changed.
    """
    cache = cache or RunCache()
    with cache.lock:
        return _tables(run_directories, options or Options(), "none of these runs is complete{}", cache)


@kept_figures()
def _tables(
    run_directories: Sequence[Path], options: Options, none_found: str, cache: RunCache | None = None
) -> list[ResultTable]:
    paths = narrow_paths(run_directories, options.narrowing) if run_directories else []
    runs, left_out = read_runs(paths, with_incomplete=options.common, cache=cache)
    if not runs:
        raise UsageError(none_found.format(f" ({left_out[0]})" if left_out else ""))
    runs = narrow_runs(runs, options.narrowing)
    groups: dict[tuple[str, ...], list[Measured]] = defaultdict(list)
    for run in runs:
        of_questions = () if options.common else (run.manifest.question_set_sha256,)
        groups[run.manifest.data["sha256"], *of_questions].append(run)
    ordered = sorted(groups.values(), key=lambda group: (-len(group[0].questions), group[0].name))
    tables = [_table(group, options) for group in ordered]
    tables[-1] = tables[-1].model_copy(update={"notes": [*tables[-1].notes, *left_out]})
    return sort_rows(tables, options.sort) if options.sort else tables


def _table(group: Sequence[Measured], options: Options) -> ResultTable:
    ids, notes = _shared_questions(group)
    clusters = clusters_of([group[0].questions[question_id] for question_id in ids], options.cluster_by)
    rows = row_labels(group)
    row_order = sorted({row for run in group for row in rows[run.name]}, key=natural)
    notes += _footnotes(group, len(ids))
    controls: list[tuple[str, Measured, Measured]] = []
    if options.controls:
        controls, lacking = control_runs(group, ids)
        notes += lacking
    quoted = quote(options.paper, options.paper_anyway, _why_other_data(group, len(ids)), REMARK)
    notes += quoted.notes
    grids = _grids(group, rows, controls)
    own_rows = [*row_order, *sorted({row for grid in grids for row, _ in grid.runs} - set(row_order), key=natural)]
    retrieval = RetrievalBlock(group, ids)
    blocks = _blocks(grids, retrieval, ids, clusters, own_rows, quoted)
    first_rows = sorted(group, key=lambda run: (row_order.index(rows[run.name][0]), column_order(_column(run))))
    return ResultTable(
        data=group[0].manifest.labels["data"],
        n_questions=len(ids),
        n_clusters=len(np.unique(clusters)),
        blocks=blocks,
        notes=[*notes, *retrieval.notes, *_rule_of_unscored(blocks)],
        spending=[_spending(run, rows[run.name][0]) for run in first_rows],
        judged=comparisons_of(run.directory.path for run in group),
    )


def _why_other_data(group: Sequence[Measured], n_questions: int) -> str | None:
    """Return why runs may not be over the questions of the paper's Table 11; None if they are."""
    for run in group:
        config = run.manifest.config
        if config["answers"] != "engaged":
            return f"{run.name} takes the answers {config['answers']}, the paper those that users engaged with"
        if config["limit"] is not None or config["ids"] is not None or n_questions < len(run.questions):
            return f"{run.name} or this table is over a part of the questions"
    return why_other_questions(group[0].manifest.data["n_notes"], list(group[0].questions.values()))


def _shared_questions(group: Sequence[Measured]) -> tuple[list[str], list[str]]:
    """Return the questions that all runs have, and remarks on those that are not the same in all."""
    first = group[0]
    shared = set(first.questions)
    others = [run for run in group[1:] if run.questions is not first.questions]  # `RunCache` shares equal ones
    for run in others:
        if not (shared := shared & set(run.questions)):
            raise UsageError(f"{first.name} and {run.name} have no question that all runs have; leave one out")
    notes = []
    for run in others:
        unlike = {each for each in shared if _asked(run.questions[each]) != _asked(first.questions[each])}
        if unlike:
            what = f"other text or references in {run.name} than in {first.name}"
            notes.append(f"{len(unlike)} of {len(first.questions)} questions left out: {what}")
        if not (shared := shared - unlike):
            raise UsageError(f"{first.name} and {run.name} have no question that is the same in both; leave one out")
    return [question_id for question_id in first.questions if question_id in shared], notes


def _asked(question: Question) -> tuple[str, list[str], list[int]]:
    return question.query, question.references, question.reference_notes


def _grids(
    group: Sequence[Measured], rows: Mapping[str, Sequence[str]], controls: Sequence[tuple[str, Measured, Measured]]
) -> list[_Grid]:
    """Return a grid for each metric of answers and signature."""
    grids = []
    for metric in dict.fromkeys(metric for run in group for metric in run.summary.metrics):
        for signature in dict.fromkeys(found for run in group if (found := run.signature(metric))):
            if is_about_hits(signature):
                continue
            places = {
                (row, _column(run)): run
                for run in group
                if run.signature(metric) == signature
                for row in rows[run.name]
            }
            of_controls = {
                (f"{row} · {what}", _column(run)): control
                for what, run, control in controls
                if run.signature(metric) == signature and metric in control.values
                for row in rows[run.name]
            }
            grids.append(_Grid(metric, signature, places | of_controls, set(places)))
    return grids


def _column(run: Measured) -> str:
    return run.manifest.labels["retriever"]


def _blocks(
    grids: Sequence[_Grid],
    retrieval: RetrievalBlock,
    ids: Sequence[str],
    clusters: Clusters,
    row_order: Sequence[str],
    quoted: Quoted,
) -> list[Block]:
    """Make all blocks at once: figures of all metrics share their resamples, and comparisons their signs."""
    columns: dict[Key, Values] = {}
    for number, grid in enumerate(grids):
        runs = list({run.name: run for run in grid.runs.values()}.values())
        columns |= {
            (number, run.name): column for run, column in zip(runs, values_of(runs, grid.metric, ids).T, strict=True)
        }
    families: list[list[Key]] = [
        list(dict.fromkeys((number, grid.runs[at].name) for at in line))
        for number, grid in enumerate(grids)
        if highest_is_best(grid.signature)
        for line in grid.lines(axis=0 if grid.has_one_row else 1)
    ]
    cells, pairs = compared(
        columns | retrieval.columns(),
        [*families, *retrieval.families()],
        clusters,
        unbounded=[number for number, grid in enumerate(grids) if can_exceed_1(grid.signature)],
    )
    rows = _Rows.of(grids, columns, clusters)
    blocks = []
    for number, grid in enumerate(grids):
        found = {
            at: cells[number, run.name].model_copy(update=rows.marks(number, at, run)) for at, run in grid.runs.items()
        }
        tested = [pair for pair in (*pairs, *rows.pairs) if _grid_of(pair.best) == number]
        of_paper = paper_rows(grid.metric, quoted)
        blocks.append(_block(grid, found, detectable(tested, clusters), row_order, of_paper))
    if retrieval.figures:
        of_first = [pair for pair in pairs if pair.best[0] == retrieval.figures[0]]
        blocks.append(retrieval.block(cells, detectable(of_first, clusters)))
    return blocks


def _grid_of(key: Key) -> Hashable:
    """Return the number of the grid that a column of figures is in."""
    return key[0][0] if isinstance(key[0], tuple) else key[0]


class _Rows(NamedTuple):
    """The comparisons of the retrievers of each LLM: with the best of them, and with no notes.

    The only row of a grid is compared in place of its columns. A key holds the row as well as the grid, because a run
    that does not depend on the number of notes is in several rows.
    """

    standings: dict[Key, Standing]
    pairs: list[RivalPair]
    gains: dict[Key, Gain]

    @classmethod
    def of(cls, grids: Sequence[_Grid], columns: Mapping[Key, Values], clusters: Clusters) -> _Rows:
        """Compare within the rows of all grids whose highest figure is the best."""
        by_row: dict[Key, Values] = {}
        families: list[list[Key]] = []
        baselines: dict[Key, list[Key]] = {}
        for number, grid in enumerate(grids):
            if not highest_is_best(grid.signature):
                continue
            for line in grid.lines(axis=0):
                keys: dict[Key, Measured] = {((number, at[0]), grid.runs[at].name): grid.runs[at] for at in line}
                by_row |= {key: columns[number, run.name] for key, run in keys.items()}
                families += [] if grid.has_one_row else [list(keys)]
                without = [key for key, run in keys.items() if run.manifest.config["retriever"]["name"] == "none"]
                if len(without) == 1:
                    baselines[without[0]] = [key for key in keys if key != without[0]]
        standings, pairs = stand(by_row, families, clusters)
        return cls(standings, pairs, gains(by_row, baselines, clusters))

    def marks(self, number: int, at: At, run: Measured) -> dict[str, Standing | Gain | None]:
        """Return the fields of a cell that give its standing in its row."""
        key = ((number, at[0]), run.name)
        return {"in_row": self.standings.get(key), "over_none": self.gains.get(key)}


def _block(
    grid: _Grid,
    cells: Mapping[At, Cell],
    could_be_shown: Detectable,
    row_order: Sequence[str],
    of_paper: Mapping[str, Mapping[str, float]],
) -> Block:
    rows = [row for row in row_order if any(at == row for at, _ in grid.runs)]
    columns = sorted({column for _, column in grid.runs} | set(chain(*of_paper.values())), key=column_order)
    kinds: list[Kind] = ["run" if any(at == row for at, _ in grid.competing) else "control" for row in rows]
    measured = [[cells.get((row, column)) for column in columns] for row in rows]
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
        detectable=could_be_shown.difference,
        undetectable=could_be_shown.why_not,
    )


def _spending(run: Measured, row: str) -> Spending:
    asked_before, latency = run.details.calls
    config = run.manifest.config
    return Spending(
        llm=row,
        retriever=_column(run),
        prompt_tokens=run.summary.usage.prompt_tokens,
        completion_tokens=run.summary.usage.completion_tokens,
        uncounted=run.summary.uncounted,
        cost=run.manifest.cost or Cost(unknown="not recorded"),
        statuses={status: run.summary.counts[status] for status in get_args(Status)},
        marks=run.summary.marks,
        run=run.name,
        model=run.manifest.labels["llm"],
        note=config.get("note"),
        prompt=run.manifest.labels["prompt"],
        top_k=run.manifest.identity.get("top_k"),
        note_fields=None if run.manifest.imported else recorded_note_fields(config),
        note_order=config.get("note_order", "best_first"),
        note_chars=config.get("note_chars"),
        note_images=run.manifest.identity.get("note_images"),
        first_asked=asked_before,
        latency=latency,
    )


def _rule_of_unscored(blocks: Iterable[Block]) -> list[str]:
    """Say how the best is chosen, if the runs of a block are scored on different numbers of questions."""
    unlike = [
        block.metric
        for block in blocks
        if len({cell.n_unscored for row in block.cells for cell in row if cell and cell.run}) > 1
    ]
    rule = "a figure is the mean of the n that are scored (n/all); the best is chosen with the others counted as 0"
    return [f"{', '.join(unlike)}: {rule}"] if unlike else []


def _footnotes(group: Sequence[Measured], n_questions: int) -> list[str]:
    notes = list(dict.fromkeys(filter(None, (str(run.manifest.data_defects) for run in group))))
    for run in group:
        if run.manifest.imported:
            notes += [f"{run.name}: {remark}" for remark in run.manifest.imported.remarks]
        counts = run.summary.counts
        unusual = [f"{n} {status}" for status, n in counts.items() if n and status not in ("questions", "ok")]
        if unusual:
            notes.append(f"{run.name}: {', '.join(unusual)} of {counts['questions']}")
        notes += [f"{run.name}: {doubt}" for doubt in doubts(run.summary)]
        if left_out := str(run.summary.left_out):
            notes.append(f"{run.name}: {left_out}")
        if len(run.questions) > n_questions or run.manifest.state != "complete":
            notes.append(f"{run.name} ({run.manifest.state}): {n_questions} of its {len(run.questions)} questions")
        notes += [f"{run.name}: {remark}" for remark in (*run.remarks, *remarks(run.summary.metrics))]
    return notes + copies(group)
