"""Compare runs from Python: the leaderboard of folders, and two runs question by question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from qilin_rag.core.tables import as_frame
from qilin_rag.pipeline.finished import Run
from qilin_rag.reports import compare as comparison
from qilin_rag.reports import leaderboard as board
from qilin_rag.reports.cells import ResultTable
from qilin_rag.reports.compare import Comparison
from qilin_rag.reports.finding import find_run
from qilin_rag.reports.formats import as_rows, html_tables
from qilin_rag.reports.narrowing import Narrowing

if TYPE_CHECKING:
    from pandas import DataFrame


class Leaderboard(Sequence[ResultTable]):
    """The tables of a leaderboard, one for each data set and set of questions.

    Args:
        tables: The tables, the largest set of questions first.

    Example:
        >>> import qilin_rag as qr
        >>> finished = qr.run(metrics="rouge_l", limit=20)
        >>> qr.leaderboard("runs").to_frame()["metric"].tolist()
        ['rouge_l', 'recall@5', 'ndcg@5', 'mrr@5']
    """

    def __init__(self, tables: Sequence[ResultTable]) -> None:
        """Hold the tables, the largest set of questions first."""
        self._tables = tuple(tables)

    @overload
    def __getitem__(self, index: int) -> ResultTable: ...
    @overload
    def __getitem__(self, index: slice) -> Leaderboard: ...
    def __getitem__(self, index: int | slice) -> ResultTable | Leaderboard:
        return Leaderboard(self._tables[index]) if isinstance(index, slice) else self._tables[index]

    def __len__(self) -> int:
        return len(self._tables)

    def __iter__(self) -> Iterator[ResultTable]:
        return iter(self._tables)

    def to_frame(self) -> DataFrame:
        """Return the leaderboard as a pandas DataFrame with a row for each figure, as `leaderboard --format csv` has.

        Raises:
            UsageError: pandas is not installed.
        """
        return as_frame(as_rows(self._tables))

    def _repr_html_(self) -> str:
        """Return the tables as HTML, for a notebook."""
        return html_tables(self._tables)


def leaderboard(
    *folders: Run | str | Path, metrics: str | Sequence[str] = (), common: bool = False, sort: str | None = None
) -> Leaderboard:
    """Put the finished runs of folders side by side, with intervals and marks.

    Args:
        *folders: Folders of runs, or runs. Default: `runs`.
        metrics: Show these alone. Default: all.
        common: Put all runs over one data set into one table, over the questions that all of them have.
        sort: The metric to sort rows by. Default: rows by name.

    Returns:
        The tables.

    Raises:
        UsageError: A folder does not exist or holds no finished run.

    Example:
        >>> import qilin_rag as qr
        >>> for retriever in (qr.NoRetriever(), qr.BM25(), qr.Oracle()):
        ...     run = qr.run(retriever=retriever, metrics="rouge_l", limit=20)
        >>> [table] = qr.leaderboard("runs")
        >>> table.blocks[0].metric, table.blocks[0].columns
        ('rouge_l', ['none', 'bm25', 'oracle'])
    """
    named = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    options = board.Options(common=common, sort=sort, narrowing=Narrowing(metrics=named))
    paths = [each.path if isinstance(each, Run) else Path(each) for each in folders or ("runs",)]
    return Leaderboard(board.leaderboard(*paths, options=options))


def compare(
    run_a: Run | str | Path,
    run_b: Run | str | Path,
    *,
    metric: str | None = None,
    cluster_by: str | None = None,
    n_moved: int = 5,
) -> Comparison:
    """Compare two finished runs question by question, by paired sign-flip tests.

    Args:
        run_a: A run, its path, or the beginning of its name in `runs`.
        run_b: The run that it is compared with.
        metric: The metric that tells which questions moved. Default: the first that both have.
        cluster_by: The field of the questions' meta that makes clusters. Default: the query.
        n_moved: How many of the questions that moved most are returned, each way.

    Returns:
        The difference of each metric with its interval and p, and the questions that moved.

    Raises:
        UsageError: A run is not finished, or the two have no question or metric in common.

    Example:
        >>> import qilin_rag as qr
        >>> none, oracle = (qr.run(retriever=name, metrics="rouge_l", limit=20) for name in ("none", "oracle"))
        >>> compared = qr.compare(oracle, none)
        >>> compared.metrics[0].metric, compared.metrics[0].difference > 0
        ('rouge_l', True)
    """
    a, b = (run.path if isinstance(run, Run) else find_run(Path(run)) for run in (run_a, run_b))
    return comparison.compare(a, b, metric, cluster_by, n_moved)
