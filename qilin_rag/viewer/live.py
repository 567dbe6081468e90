"""The list of runs, and its changes as they happen."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute, Route

from qilin_rag.viewer.app import data, is_ending, page
from qilin_rag.viewer.rows import RunRow
from qilin_rag.viewer.shell import markup, shell
from qilin_rag.viewer.watch import LOOK_S, RunWatcher

_STEP_S = 0.2
_HEARTBEAT_S = 15.0


def routes(watcher: RunWatcher) -> list[BaseRoute]:
    """Return the routes of the list of runs.

    Args:
        watcher: The state of the runs.
    """

    async def events(request: Request) -> StreamingResponse:
        return StreamingResponse(_events(request, watcher), media_type="text/event-stream")

    return [
        page("/", lambda request: shell("qilin-rag: Runs", "home", markup("home.html"), "/")),
        data("/api/runs", lambda request: [row.model_dump() for row in watcher.rows().values()]),
        Route("/api/events", events),
    ]


async def _events(request: Request, watcher: RunWatcher) -> AsyncIterator[str]:
    """Yield the rows, then those that change, until the client leaves or the server ends.

    The field `run` of the address asks for one run alone.
    """
    changes = _Changes(watcher, request.query_params.get("run"))
    said_s, looked_s = time.monotonic(), -math.inf
    while not (is_ending(request) or await request.is_disconnected()):
        if (now_s := time.monotonic()) - looked_s >= LOOK_S:
            looked_s = now_s
            said = await run_in_threadpool(changes.next)
            if said is None and now_s - said_s >= _HEARTBEAT_S:
                said = ": still here\n\n"
            if said is not None:
                said_s = now_s
                yield said
        await asyncio.sleep(_STEP_S)  # short, so that an open stream does not hold up the end of the server


class _Changes:
    """The rows that one client was sent."""

    def __init__(self, watcher: RunWatcher, key: str | None) -> None:
        self._watcher, self._key = watcher, key
        self._sent: dict[str, RunRow] | None = None

    def next(self) -> str | None:
        """Return the event of what changed since the last call; None if nothing did."""
        rows = self._watcher.rows()
        if self._key is not None:
            rows = {row_id: row for row_id, row in rows.items() if row_id == f"run/{self._key}"}
        is_first, sent = self._sent is None, self._sent or {}
        changed = [row.model_dump() for row_id, row in rows.items() if sent.get(row_id) is not row]
        gone = [row_id for row_id in sent if row_id not in rows]
        self._sent = rows
        if not (is_first or changed or gone):
            return None
        content = json.dumps({"is_first": is_first, "rows": changed, "gone": gone}, ensure_ascii=False)
        return f"data: {content}\n\n"
