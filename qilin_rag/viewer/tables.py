"""Tables of two runs, of an ablation and of rankers, as the commands print them; and results as files."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from qilin_rag.core.errors import UsageError
from qilin_rag.core.judged_answers import ASSIGNED, CHECKED, SUPPORTED
from qilin_rag.core.plain_files import file_state
from qilin_rag.core.spreadsheet import csv_of_records
from qilin_rag.core.text import clean
from qilin_rag.data.requests import TaskName
from qilin_rag.pipeline.run_directory import SAMPLES
from qilin_rag.reports import formats
from qilin_rag.reports.ablation import ablation, common_settings
from qilin_rag.reports.compare import Moved, compare, section_of
from qilin_rag.reports.contents import collect
from qilin_rag.reports.html import as_html
from qilin_rag.reports.leaderboard import leaderboard_of
from qilin_rag.reports.measured import RunCache, read_runs
from qilin_rag.reports.ranking_board import ranking_board
from qilin_rag.reports.sections import Section, ablation_sections, board_sections
from qilin_rag.viewer.app import data, page
from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.shell import markup, shell

_MOST_MOVED = 20
_MOST_REPORT_BYTES = 300 << 20
_FORMATS = {
    "csv": ("text/csv", "leaderboard.csv"),
    "json": ("application/json", "leaderboard.json"),
    "md": ("text/markdown", "leaderboard.md"),
    "latex": ("text/plain", "leaderboard.tex"),
    "html": ("application/octet-stream", "report.html"),
}


def routes(folders: Folders, cache: RunCache, images: bool = True) -> list[BaseRoute]:
    """Return the routes of the tables and of the downloads.

    Args:
        folders: The runs.
        cache: Keeps what was read of each run.
        images: Whether a report has the images of notes, if a run sent images.
    """
    pages = {"/compare": "Compare", "/ablation": "Ablation", "/rankings": "Rankings"}
    return [
        *(page(path, functools.partial(_page, path, title)) for path, title in pages.items()),
        data("/api/compare", lambda request: _compare(folders, request)),
        data("/api/ablation", lambda request: _ablation(folders, cache, request)),
        data("/api/rankings", lambda request: _rankings(folders, request)),
        data("/api/download", lambda request: _download(folders, cache, images, request)),
    ]


def _page(path: str, title: str, _: Request) -> str:
    return shell(f"qilin-rag: {title}", "tables", markup("tables.html"), path)


def _compare(folders: Folders, request: Request) -> dict[str, Any]:
    """Return the comparison of two runs, and the names of all runs to choose from."""
    chosen = request.query_params.getlist("run")
    answer: dict[str, Any] = {"runs": list(folders.runs()), "sections": []}
    if len(chosen) != 2 or len(set(chosen)) != 2:
        return answer
    path_a, path_b = folders.runs_of(request)
    metric = request.query_params.get("metric") or None
    compared = compare(path_a, path_b, metric, n_moved=_MOST_MOVED)
    return answer | {
        "sections": _plain([section_of(compared)]),
        "metrics": [each.metric for each in compared.metrics],
        "moved_by": compared.moved_by,
        "moved": {"A": _moved(compared.better_a), "B": _moved(compared.better_b)},
    }


def _moved(questions: Iterable[Moved]) -> list[dict[str, Any]]:
    return [question.model_dump(mode="json") for question in questions]


def _ablation(folders: Folders, cache: RunCache, request: Request) -> dict[str, Any]:
    """Return the ablation of the complete runs by one metric, around the settings that most of them have."""
    with cache.lock:
        runs, left_out = read_runs(list(folders.runs().values()), cache=cache)
    metrics = sorted({name for each in runs for name in each.summary.metrics}, key=lambda name: ("@" in name, name))
    metric = request.query_params.get("metric") or next(iter(metrics), "")
    answer: dict[str, Any] = {"metrics": metrics, "metric": metric, "sections": []}
    if not runs:
        return answer | {"why": "no run is complete yet"}
    with_metric = [each for each in runs if each.signature(metric) is not None]
    if not with_metric:
        return answer | {"why": f"no complete run is scored by {metric!r}"}
    try:
        reports = ablation(with_metric, common_settings(with_metric), metric)
    except UsageError as error:
        return answer | {"why": str(error)}
    without = [f"{each.name} is not scored by {metric}" for each in runs if each not in with_metric]
    notes = Section("", [], [], [*without, *left_out])
    return answer | {"sections": _plain([*ablation_sections(reports), notes])}


def _rankings(folders: Folders, request: Request) -> dict[str, Any]:
    """Return the tables of rankers for a task."""
    tasks: tuple[TaskName, ...] = get_args(TaskName)
    given = request.query_params.get("task") or tasks[0]
    task = next((task for task in tasks if task == given), None)
    if task is None:
        raise HTTPException(404, "there is no such task")
    answer: dict[str, Any] = {"tasks": tasks, "task": task, "sections": []}
    try:
        tables = ranking_board(*folders.rankings().values(), task=task)
    except UsageError as error:
        return answer | {"why": str(error) if folders.rankings() else "no ranking is complete yet"}
    return answer | {"sections": _plain(board_sections(tables))}


def _plain(sections: Iterable[Section]) -> list[dict[str, Any]]:
    return [section._asdict() for section in sections]


def _download(folders: Folders, cache: RunCache, images: bool, request: Request) -> Response:
    """Return the leaderboard or the report of the named runs, of all if none is named, as a file."""
    kind = request.query_params.get("format", "")
    if kind not in _FORMATS:
        raise HTTPException(404, f"there is no such format; there are {', '.join(_FORMATS)}")
    paths = folders.runs_of(request)
    media_type, name = _FORMATS[kind]
    if kind == "html":
        _check_size(paths)
        text = as_html(collect(paths, None if images else "none"))
    else:
        with cache.lock:
            tables = leaderboard_of(paths, cache=cache)
        text = {
            "csv": lambda: csv_of_records(formats.as_rows(tables)),
            "json": lambda: json.dumps(formats.as_json(tables), ensure_ascii=False, indent=2),
            "md": lambda: formats.as_markdown(tables),
            "latex": lambda: formats.as_latex(tables),
        }[kind]()
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(clean(text).encode(), media_type=media_type, headers=headers)


def _check_size(paths: Iterable[Path]) -> None:
    """Refuse a report that no browser could open, and that would take all memory of this process."""
    runs, names = list(paths), (SAMPLES, ASSIGNED, CHECKED, SUPPORTED)
    n_bytes = sum(state[1] for path in runs for name in names if (state := file_state(path / name)))
    if n_bytes > _MOST_REPORT_BYTES:
        held = f"{len(runs)} runs hold {n_bytes >> 20} MB of prompts, answers and their parts"
        raise HTTPException(
            400, f"{held}, more than the {_MOST_REPORT_BYTES >> 20} MB of a report; choose some of them"
        )
