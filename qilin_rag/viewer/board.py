"""The leaderboard and the questions behind it: the page of the report, whose data is asked for piece by piece."""

from __future__ import annotations

from starlette.routing import BaseRoute

from qilin_rag.viewer.app import data
from qilin_rag.viewer.folders import Folders


def routes(folders: Folders) -> list[BaseRoute]:
    """Return the routes of the leaderboard.

    Args:
        folders: The runs.
    """
    return [data("/api/keys", lambda request: list(folders.runs()))]
