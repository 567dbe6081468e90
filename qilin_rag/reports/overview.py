"""Make the index of the page: per set of questions the leaderboard, its runs, and the questions; no sample is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from qilin_rag import __version__
from qilin_rag.core.citation_markers import BETWEEN_MARKERS, MARKER, RANGE, WIDEST_RANGE, WRAPPER
from qilin_rag.core.environment import now
from qilin_rag.core.text import EMPHASIS, LOOKS_ALIKE
from qilin_rag.core.types import Question, Status
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.reports.cells import Block, Cell, ResultTable, Spending
from qilin_rag.reports.formats import is_best, legend_sentences, marks_of
from qilin_rag.reports.side_tables import judged_by, judged_rows
from qilin_rag.scorers.retrieval import is_about_hits
from qilin_rag.scorers.summary import MARKS

STATUSES = get_args(Status)


def index_of(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the index of a page over these tables, each made by `table_of`."""
    return {
        "version": __version__,
        "made": now(),
        "statuses": STATUSES,
        "doubts": MARKS,
        "markup": {
            "emphasis": EMPHASIS.pattern,
            "markers": [MARKER, WRAPPER, WRAPPER, BETWEEN_MARKERS],
            "range": RANGE,
            "widestRange": WIDEST_RANGE,
            "alike": LOOKS_ALIKE,
        },
        "tables": tables,
    }


def table_of(
    board: ResultTable,
    manifests: Mapping[str, Manifest],
    questions: Sequence[Question],
    why_no_notes: str,
    noise: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    why_no_images: str = "",
) -> dict[str, Any]:
    """Return the part of the index about one set of questions.

    Args:
        board: the leaderboard of these questions.
        manifests: of the runs, by the names that the board gives them.
        questions: in the order in which every list of the page has them.
        why_no_notes: from `open_notes`.
        noise: from `noise_of`; runs that it lacks are on no noise curve.
        why_no_images: from `open_thumbnails`.

    Returns:
        The table; its runs are in the order of `runs_of`, its metrics in that of `metrics_of`.
    """
    figures = _figures(board, manifests)
    return {
        "data": board.data,
        "metrics": [
            {"name": name, "signature": signature, "of_hits": is_about_hits(signature)}
            for name, signature in metrics_of(board)
        ],
        "retrieval": [
            {"retriever": row, "figures": list(map(_shown, cells))}
            for block in board.blocks
            if block.signatures
            for row, cells in zip(block.rows, block.cells, strict=True)
        ],
        "judged": [{"by": judged_by(each), "rows": judged_rows(each)} for each in board.judged],
        "legend": legend_sentences(board),
        "runs": [
            {
                **spending.model_dump(mode="json"),
                "prompt": manifests[spending.run].labels["prompt"],
                "figures": figures[spending.run],
                **({"noise": noise[spending.run]} if spending.run in noise else {}),
            }
            for spending in runs_of(board)
        ],
        "notes": board.notes,
        "why_no_notes": why_no_notes,
        "why_no_images": why_no_images,
        "ids": [question.id for question in questions],
        "queries": [question.query for question in questions],
    }


def directories_of(board: ResultTable, paths: Iterable[Path]) -> dict[str, RunDirectory]:
    """Return the directories of a board's runs, in its order, by the names that it gives them."""
    named = {name: path for path in paths for name in (path.name, str(path))}
    return {spending.run: RunDirectory(named[spending.run]) for spending in runs_of(board)}


def runs_of(board: ResultTable) -> list[Spending]:
    """Return what each run used, in the order of the leaderboard's rows and columns."""
    order = [
        run for block in board.blocks for row in block.cells for cell in row if cell for run in (cell.run, *cell.also)
    ]
    places = {run: place for place, run in enumerate(dict.fromkeys(order))}
    return sorted(board.spending, key=lambda spending: places.get(spending.run, len(places)))


def metrics_of(board: ResultTable) -> list[tuple[str, str]]:
    """Return the metrics of a board as pairs of name and signature."""
    return [metric for block in board.blocks for metric in _metrics_of_block(block)]


def _metrics_of_block(block: Block) -> list[tuple[str, str]]:
    if block.signatures:
        return list(zip(block.columns, block.signatures, strict=True))
    return [(block.metric, block.signature)]


def _figures(board: ResultTable, names: Iterable[str]) -> dict[str, list[dict[str, Any] | None]]:
    """Return each run's figures by metric, as on the leaderboard.

    A run in several rows has the marks of a row only if they are the same in all.
    """
    found: dict[str, list[Cell | None]] = {name: [] for name in names}
    for block in board.blocks:
        of_run: dict[tuple[str, int], Cell] = {}
        for row in block.cells:
            for place, cell in enumerate(row):
                if cell is None:
                    continue
                for run in (cell.run, *cell.also):
                    if run is None:
                        continue
                    at = (run, place if block.signatures else 0)
                    same = of_run.get(at, cell)
                    is_one = marks_of(same) == marks_of(cell)
                    of_run[at] = cell if is_one else cell.model_copy(update={"in_row": None, "over_none": None})
        for name, cells in found.items():
            cells += [of_run.get((name, place)) for place in range(len(_metrics_of_block(block)))]
    return {name: list(map(_shown, cells)) for name, cells in found.items()}


def _shown(cell: Cell | None) -> dict[str, Any] | None:
    """Return a figure with its marks, in the form of the page."""
    if cell is None:
        return None
    figures = cell.model_dump(mode="json", exclude={"run", "also"}, exclude_defaults=True)
    return {"value": cell.value, "n": cell.n, **figures, "marks": marks_of(cell), "is_best": is_best(cell)}
