"""The base of the tests' servers: one on loopback that stops with its test and leaves no trace in the output."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class LoopbackServer:
    """Serves while its `with` block lasts. `handler` finds it as its `fake`."""

    def __init__(self, handler: type[LoopbackHandler], context: ssl.SSLContext | None = None) -> None:
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._http = _HTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"fake": self}))
        if context:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.host = f"127.0.0.1:{self._http.server_address[1]}"
        self.root = f"{'https' if context else 'http'}://{self.host}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # connections that come at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or trusts no certificate, is none: its test would find a traceback in its output."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class LoopbackHandler(BaseHTTPRequestHandler):
    fake: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Quiet."""

    def read_json(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        """Send bytes and text as they are, anything else as JSON."""
        content = value.encode() if isinstance(value, str) else value
        if not isinstance(content, bytes):
            content = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)
