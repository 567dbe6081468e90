"""The address that `view` prints is answered from then on, and no request takes all memory."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from tests.viewer.serving import started


def test_whoever_reads_the_address_can_connect_at_once_and_headers_end(tmp_path: Path) -> None:
    with started("--runs-dir", tmp_path) as address:
        host, _, port = address.removeprefix("http://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
