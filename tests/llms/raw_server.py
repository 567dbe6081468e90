"""A server on loopback that answers with the bytes it is told, cut where it is told, over TLS where it has a key."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

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


class RawServer:
    """`answer` says what a request gets; without one, or where it says None, a GET gets the list of models."""

    def __init__(self, answer: Callable[[Request], Answer | None], signed: tuple[Path, Path] | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._http = _HTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"raw": self}))
        if signed:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*signed)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.host = f"127.0.0.1:{self._http.server_address[1]}"
        self.url = f"{'https' if signed else 'http'}://{self.host}/v1"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def posted(self) -> list[dict[str, Any]]:
        return [request.body for request in self.requests if request.body is not None]


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or trusts no certificate, is none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    raw: RawServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._do(None)

    def do_POST(self) -> None:
        self._do(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _do(self, body: dict[str, Any] | None) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        self.raw.requests.append(request)
        models = as_json({"object": "list", "data": [{"id": MODEL}]})
        answer = self.raw.answer(request) or (models if body is None else Answer(status=404))
        try:
            self._send(answer)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def _send(self, answer: Answer) -> None:
        self.raw.stopping.wait(answer.wait_s)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        for part in answer.parts:
            self.raw.stopping.wait(answer.wait_s)
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.flush()
        if answer.hangs:
            self.raw.stopping.wait(30)
        if answer.is_whole and not answer.hangs:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True
