"""A server on loopback that answers with the bytes it is told, cut where it is told, over TLS where it has a key."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.loopback import LoopbackHandler, LoopbackServer

MODEL = "raw-model"


class Request(NamedTuple):
    """What was asked. `headers` by their names in lower case; `body` None of a GET."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None


class Answer(NamedTuple):
    """`parts` are sent one by one; then the connection is left open as it is, unless `is_whole`."""

    parts: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = {}
    wait_s: float = 0.0  # before each part, and before the status
    is_whole: bool = True
    hangs: bool = False  # at the end, with nothing more to come


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer([json.dumps(value, ensure_ascii=False).encode()], status, {"content-type": "application/json"})


def events(*chunks: Any, done: bool = True) -> bytes:
    """Chunks as a server sends them; texts go as they are."""
    lines = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in chunks]
    return "".join(f"data: {line}\n\n" for line in [*lines, *(["[DONE]"] if done else [])]).encode()


def delta(finish_reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": fields, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}


def refused(message: str, status: int = 400, **fields: Any) -> Answer:
    return as_json({"error": {"message": message, "type": "invalid_request_error", **fields}}, status)


def stream(*parts: bytes, **fields: Any) -> Answer:
    return Answer(parts, headers={"content-type": "text/event-stream"}, **fields)


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", *request.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class RawServer(LoopbackServer):
    """`answer` says what a request gets; without one, or where it says None, a GET gets the list of models."""

    def __init__(self, answer: Callable[[Request], Answer | None], signed: tuple[Path, Path] | None = None) -> None:
        context = None
        if signed:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*signed)
        super().__init__(_Handler, context)
        self.answer = answer
        self.requests: list[Request] = []
        self.url = f"{self.root}/v1"

    @property
    def posted(self) -> list[dict[str, Any]]:
        return [request.body for request in self.requests if request.body is not None]


class _Handler(LoopbackHandler):
    def do_GET(self) -> None:
        self._do(None)

    def do_POST(self) -> None:
        self._do(self.read_json())

    def _do(self, body: dict[str, Any] | None) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        self.fake.requests.append(request)
        models = as_json({"object": "list", "data": [{"id": MODEL}]})
        answer = self.fake.answer(request) or (models if body is None else Answer(status=404))
        try:
            self._send(answer)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def _send(self, answer: Answer) -> None:
        self.fake.stopping.wait(answer.wait_s)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        for part in answer.parts:
            self.fake.stopping.wait(answer.wait_s)
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.flush()
        if answer.hangs:
            self.fake.stopping.wait(30)
        if answer.is_whole and not answer.hangs:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True
