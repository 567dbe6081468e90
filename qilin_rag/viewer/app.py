"""Build the web application: which address gives which page, data or file.

Each part of the view is a module with a function `routes(folders)`. A run is named in an address by its key in
`Folders`, which is looked up and never becomes a path.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from qilin_rag.core.errors import QilinError
from qilin_rag.core.text import clean

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MOST_BODY_BYTES = 1 << 20
_PLACES = (("qilin_rag.viewer", "page"), ("qilin_rag.reports", "page"))


def build_app(routes: list[BaseRoute]) -> Starlette:
    """Return the application of these routes, with the scripts, the styles and the icon of all pages.

    Args:
        routes: The routes of the parts that are shown.
    """
    app = Starlette(
        routes=[*routes, Route("/page/{name}", _asset)],
        exception_handlers={QilinError: _told, HTTPException: _told, OSError: _told},
    )
    app.state.is_ending = lambda: False
    return app


def is_ending(request: Request) -> bool:
    """Return whether the server ends, so that an answer without an end must end now.

    Args:
        request: A request to the application.
    """
    return bool(request.app.state.is_ending())


def data(path: str, make: Callable[[Request], Any], methods: tuple[str, ...] = ("GET",)) -> Route:
    """Return a route that answers with JSON.

    Args:
        path: The path of the address.
        make: Gives the value for a request. It runs in a thread, so it may read files. `request.state.body` has the
            bytes of a POST.
        methods: The methods that are answered.
    """

    async def answer(request: Request) -> Response:
        if "POST" in methods:
            request.state.body = await _read_body(request)  # here: a thread can't wait for it
        value = await run_in_threadpool(make, request)
        return value if isinstance(value, Response) else await run_in_threadpool(as_json, value)

    return Route(path, answer, methods=list(methods))


def as_json(value: Any, status: int = 200) -> Response:
    """Return an answer in JSON, whatever a run holds: half a surrogate pair becomes U+FFFD, and NaN null.

    Args:
        value: Plain data.
        status: The HTTP status.
    """
    try:
        text = _as_text(value)
    except ValueError:
        text = _as_text(_without_nan(value))
    return Response(clean(text).encode(), status, media_type="application/json")


async def _read_body(request: Request) -> bytes:
    """Return what a request holds, if it is not too much."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MOST_BODY_BYTES:
            raise HTTPException(413, f"a request holds at most {MOST_BODY_BYTES} bytes")
    return content


def page(path: str, make: Callable[[Request], str]) -> Route:
    """Return a route that answers with a page of HTML.

    Args:
        path: The path of the address.
        make: Gives the HTML for a request, with everything in it escaped.
    """

    async def answer(request: Request) -> Response:
        html = await run_in_threadpool(make, request)
        return Response(clean(html).encode(), media_type="text/html")

    return Route(path, answer)


@functools.cache
def _assets() -> dict[str, bytes]:
    """Return scripts, styles and the icon by name. A name of a request is looked up here, and never becomes a path."""
    return {
        each.name: each.read_bytes()
        for package, name in _PLACES
        if (folder := files(package) / name).is_dir()
        for each in folder.iterdir()
        if each.name.endswith(tuple(_TYPES))
    }


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    content = _assets().get(name)
    if content is None:
        raise HTTPException(404, "there is no such script, style or icon")
    return Response(content, media_type=_TYPES["." + name.rpartition(".")[2]])


async def _told(request: Request, error: Exception) -> Response:
    """Answer with one line that says what is wrong."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    text = error.detail if isinstance(error, HTTPException) else " ".join(str(error).split())
    if request.url.path.startswith("/api/"):
        return as_json({"error": text}, status)
    return PlainTextResponse(clean(f"{text}\n"), status)


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
