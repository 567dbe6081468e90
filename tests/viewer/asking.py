"""Send any request to the guarded application, also one that no client sends, and read the answer in bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message

from tests.viewer.serving import HOST, TOKEN

OWN = (("host", HOST), ("authorization", f"Bearer {TOKEN}"))
LONGEST_S = 60.0
_MOST_PIECES = 100
Pairs = Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """The answer to a request; of a stream of events, its first piece."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    app: ASGIApp, path: str, fields: Pairs = (), headers: Pairs = OWN, method: str = "GET", kind: str = "http"
) -> Answer:
    """Ask an application; a timeout is an error."""
    return asyncio.run(asyncio.wait_for(_ask(app, path, fields, headers, method, kind), LONGEST_S))


async def _ask(app: ASGIApp, path: str, fields: Pairs, headers: Pairs, method: str, kind: str) -> Answer:
    sent: list[Message] = []
    is_enough = asyncio.Event()
    requests: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await is_enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if len(sent) < _MOST_PIECES:
            sent.append(message)
        if message.get("body"):
            is_enough.set()

    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(errors="replace"),
        "query_string": urlencode(fields, errors="surrogatepass").encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8765),
        "extensions": {},
        "state": {},
    }
    await app(scope, receive, send)
    if not sent:
        return Answer(0, {}, b"")
    start = sent[0]
    found = {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())}
    return Answer(start.get("status", 0), found, b"".join(message.get("body", b"") for message in sent))
