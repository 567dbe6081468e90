"""Start the view as a user does, or without a socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.testclient import TestClient

from qilin_rag.viewer.guard import Guard

TOKEN = "a-token-of-tests"
HOST = "127.0.0.1:8765"


def client_of(app: Starlette, with_token: bool = True) -> TestClient:
    """A client of the guarded application, without a socket."""
    client = TestClient(Guard(app, TOKEN, {HOST}, "view"), base_url=f"http://{HOST}", follow_redirects=False)
    if with_token:
        client.headers["authorization"] = f"Bearer {TOKEN}"
    return client


@contextmanager
def started(*arguments: str | Path) -> Iterator[str]:
    """`qilin-rag view` with these arguments in a process of its own, by its address."""
    command: Sequence[str] = [sys.executable, "-m", "qilin_rag", "view", "--port", "0", "--quiet", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("the view did not end") from None
