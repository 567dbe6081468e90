"""Put the parts of the view together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette

from qilin_rag.reports.measured import RunCache
from qilin_rag.viewer import board, live, run_page, tables
from qilin_rag.viewer.app import build_app
from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.watch import RunWatcher


def site(runs_dirs: Sequence[Path], images: bool = True) -> Starlette:
    """Return the application that shows the runs of these folders.

    Args:
        runs_dirs: Folders of runs.
        images: Whether the images of notes are shown.

    Raises:
        UsageError: if one is not a folder.
    """
    folders, cache = Folders(runs_dirs), RunCache()
    watcher = RunWatcher(folders)
    return build_app(
        [
            *live.routes(watcher),
            *run_page.routes(folders, watcher, images),
            *board.routes(folders, cache, images),
            *tables.routes(folders, cache, images),
        ]
    )
