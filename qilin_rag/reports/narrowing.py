"""Narrow a leaderboard to some runs and metrics, and sort its rows by one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from qilin_rag.core.errors import unknown_name
from qilin_rag.core.types import Frozen
from qilin_rag.reports.cells import Block, Cell, ResultTable
from qilin_rag.reports.finding import is_meant
from qilin_rag.reports.measured import Measured, highest_is_best
from qilin_rag.scorers.retrieval import is_about_hits


class Narrowing(Frozen):
    """The runs and metrics that a leaderboard shows; an empty list is no limit.

    Each entry is a name or a pattern with `*` and `?`, in any case. A run may be named by the beginning of its name; a
    retriever and an LLM with or without the settings in its label. `recall` means `recall@` of every k, and `retrieval`
    all figures of hits.
    """

    runs: list[str] = []
    llms: list[str] = []
    retrievers: list[str] = []
    prompts: list[str] = []
    metrics: list[str] = []


def narrow_paths(paths: Sequence[Path], narrowing: Narrowing) -> list[Path]:
    """Return the run directories that are selected by name, before any is read.

    Raises:
        UsageError: A name or pattern fits no run.
    """
    names = {path: [path.name, str(path)] for path in paths}
    fitting = _fitting("run", narrowing.runs, names.values(), by_beginning=True)
    return [path for path, own in names.items() if fitting(own)]


def narrow_runs(runs: Sequence[Measured], narrowing: Narrowing) -> list[Measured]:
    """Return the runs of these LLMs, retrievers and prompts, with only these metrics.

    Raises:
        UsageError: A name or pattern fits nothing in any run.
    """
    named: list[tuple[str, list[str], Callable[[Measured], list[str]]]] = [
        ("llm", narrowing.llms, lambda run: _with_first_word(run.llm, run.manifest.labels["llm"])),
        ("retriever", narrowing.retrievers, lambda run: _with_first_word(run.manifest.labels["retriever"])),
        ("prompt", narrowing.prompts, lambda run: [run.manifest.labels["prompt"]]),
    ]
    for kind, wanted, names_of in named:
        fitting = _fitting(kind, wanted, map(names_of, runs))
        runs = [run for run in runs if fitting(names_of(run))]
    signatures = {(name, of.signature) for run in runs for name, of in run.summary.metrics.items()}
    fitting = _fitting("metric", narrowing.metrics, (_names_of(*metric) for metric in signatures))
    return [_with_metrics(run, fitting) for run in runs]


def _with_metrics(run: Measured, fitting: Callable[[Collection[str]], bool]) -> Measured:
    kept = {name: of for name, of in run.summary.metrics.items() if fitting(_names_of(name, of.signature))}
    return run._replace(summary=run.summary.model_copy(update={"metrics": kept}))


def _with_first_word(*labels: str) -> list[str]:
    return [*labels, *(label.split(" ")[0] for label in labels)]


def _names_of(metric: str, signature: str) -> list[str]:
    return [metric, metric.partition("@")[0], *(["retrieval"] if is_about_hits(signature) else [])]


def _fitting(
    kind: str, wanted: Sequence[str], known: Iterable[Collection[str]], by_beginning: bool = False
) -> Callable[[Collection[str]], bool]:
    """Return a test whether names fit what is wanted; raise a UsageError if something wanted fits nothing known."""
    problem = "does not exist" if kind == "run" else "is not in these runs"
    patterns = [pattern.lower() for pattern in wanted]

    def fits(names: Collection[str], pattern: str) -> bool:
        lower = [name.lower() for name in names]
        begins = by_beginning and any(is_meant(pattern, name) for name in lower)
        return begins or pattern in lower or any(fnmatchcase(name, pattern) for name in lower)

    if wanted:
        known = list(known)
        for given, pattern in zip(wanted, patterns, strict=True):
            if not any(fits(names, pattern) for names in known):
                raise unknown_name(kind, given, {next(iter(names)) for names in known}, problem)
    return lambda names: not patterns or any(fits(names, pattern) for pattern in patterns)


def sort_rows(tables: Sequence[ResultTable], metric: str) -> list[ResultTable]:
    """Sort the rows of each table by a metric, the best first; runs before controls and the paper's rows.

    Rows of answers are sorted by the best figure of the row; rows of retrieval or rankers by that metric's column. Only
    blocks that have the metric determine an order; that of answers is used for all blocks of answers.

    Raises:
        UsageError: No table has the metric.
    """
    known = {name for table in tables for block in table.blocks for name in _sortable(block)}
    fitting = {name.lower(): name for name in sorted(known, reverse=True)}
    fitting |= {name.partition("@")[0]: name for name in sorted(known, reverse=True) if "@" in name} | fitting
    found = fitting.get(metric.lower())
    if found is None:
        raise unknown_name("metric", metric, known, "is not in these tables")
    return [_sorted(table, found) for table in tables]


def _sortable(block: Block) -> list[str]:
    return block.columns if _has_metric_columns(block) else [block.metric]


def _has_metric_columns(block: Block) -> bool:
    """Return whether each column is a metric of its own."""
    return bool(block.signatures) or block.axes[0] != "llm"


def _sorted(table: ResultTable, metric: str) -> ResultTable:
    of_answers: dict[str, float] = {}
    for block in table.blocks:
        if not _has_metric_columns(block) and block.metric == metric and not of_answers:
            of_answers = _values(block, block.cells)
    blocks = []
    for block in table.blocks:
        values = of_answers
        if _has_metric_columns(block):
            at = block.columns.index(metric) if metric in block.columns else None
            values = {} if at is None else _values(block, [[row[at]] for row in block.cells], at)
        blocks.append(_reordered(block, values) if values else block)
    spending = sorted(table.spending, key=lambda each: -of_answers.get(each.llm, float("-inf")))
    return table.model_copy(update={"blocks": blocks, "spending": spending if of_answers else table.spending})


def _values(block: Block, cells: Sequence[Sequence[Cell | None]], column: int = 0) -> dict[str, float]:
    """Return the best figure of each row, turned so that higher is better."""
    signature = block.signatures[column] if block.signatures else block.signature
    sign = 1 if highest_is_best(signature) else -1
    found = {}
    for row, of_row in zip(block.rows, cells, strict=True):
        if figures := [sign * cell.value for cell in of_row if cell and cell.value is not None]:
            found[row] = max(figures)
    return found


def _reordered(block: Block, values: dict[str, float]) -> Block:
    kinds = ("run", "control", "paper")
    order = sorted(
        range(len(block.rows)),
        key=lambda at: (kinds.index(block.kinds[at]), -values.get(block.rows[at], float("-inf"))),
    )
    parts = {name: [getattr(block, name)[at] for at in order] for name in ("rows", "kinds", "cells")}
    return block.model_copy(update=parts)
