"""Serve the application at an address with a token, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from qilin_rag.core.errors import UsageError
from qilin_rag.viewer.guard import Guard

_NAMES_OF_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address or a name.

    Args:
        host: A name or an IP address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def serve(app: Starlette, host: str, port: int, ready: Callable[[str], None], token: str | None = None) -> None:
    """Serve until the process is interrupted.

    Args:
        app: The application.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        ready: Called with the whole address once it answers, before the first request.
        token: The secret of the address; None draws one.

    Raises:
        UsageError: if the address can't be listened at.
    """
    listener = _listen(host, port)
    with listener:
        port = listener.getsockname()[1]
        token = token or secrets.token_urlsafe(24)
        shown = f"[{host}]" if ":" in host else host
        names = {shown, *(_NAMES_OF_LOOPBACK if is_loopback(host) else ())}
        is_any = host in ("0.0.0.0", "::")
        if is_any:
            names |= {*_NAMES_OF_LOOPBACK, *_own_names()}
            shown = socket.gethostname()
        hosts = {f"{name.lower()}:{port}" for name in names}
        if port == 80:  # which browsers leave out
            hosts |= {name.lower() for name in names}
        guarded = Guard(app, token, hosts, f"qilin-rag-view-{port}", ip_port=port if is_any else None)
        config = uvicorn.Config(
            guarded,
            log_level="error",
            access_log=False,  # its lines would hold the token
            server_header=False,
            http="h11",  # which bounds the size of headers
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=30,
            limit_concurrency=200,
            ws="none",
        )
        server = uvicorn.Server(config)
        app.state.is_ending = lambda: server.should_exit
        ready(f"http://{shown}:{port}/?token={token}")
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # who has the address may connect at once
    except OSError as error:
        raise UsageError(
            f"{host}:{port} can't be listened at: {error.strerror}; choose another port, or 0 for a free one"
        ) from None
    return listener


def _own_names() -> set[str]:
    """Return the names and addresses under which other machines reach this one."""
    name = socket.gethostname()
    try:
        return {name, socket.getfqdn(), *socket.gethostbyname_ex(name)[2]}
    except OSError:
        return {name}
