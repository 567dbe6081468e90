"""Refuse every request that does not come from the page of the person who started the viewer.

A page of any other site can make a browser send requests to this machine. So a request needs a token that only the
printed address has, a Host that is this server (against DNS rebinding), and no sign that another site caused it.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import parse_qs, quote, urlencode

from markupsafe import escape
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATH_CHARS = "/:@!$&'()*+,;=~"
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Wrap an ASGI application: check token, Host and origin, and send the headers that bind the page.

    Args:
        app: The application.
        token: The secret of the address.
        hosts: The values of Host that are this server, in lower case: `127.0.0.1:8123`.
        cookie: The name of the cookie that keeps the token; cookies are shared by all ports, so it names the port.
        ip_port: The port at which every IP address is this server, too: no DNS stands behind an address, and a machine
            knows not all that lead to it. None allows `hosts` alone.
    """

    def __init__(
        self, app: ASGIApp, token: str, hosts: Collection[str], cookie: str, ip_port: int | None = None
    ) -> None:
        self._app, self._token, self._hosts, self._cookie = app, token, frozenset(hosts), cookie
        self._ip_port = ip_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no WebSocket is ever opened

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.encode(): value.encode() for name, value in _HEADERS.items()}
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() not in own]
                message["headers"] += list(own.items())
            await send(message)

        app: ASGIApp = self._verdict(scope) or self._app
        return await app(scope, receive, send_bound)

    def _verdict(self, scope: Scope) -> Response | None:
        """Return the answer to a request that the application must not see; None if it may."""
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not self._is_own(headers["host"].lower()):
            return _refused(
                f"this is not {' or '.join(sorted(self._hosts))}; open the address that `view` printed", 421
            )
        if why := _caused_elsewhere(headers, scope["method"]):
            return _refused(why, 403)
        fields = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if self._is_token(fields.get("token", [""])[-1]):
            return self._admitted(scope, fields, headers)
        kept = cookie_parser(headers.get("cookie") or "").get(self._cookie, "")
        if self._is_token(kept) or self._is_token((headers.get("authorization") or "").removeprefix("Bearer ")):
            return None
        return _refused("the token is missing or old; open the whole address that `view` printed", 403)

    def _is_own(self, host: str) -> bool:
        return host in self._hosts or (self._ip_port is not None and _is_address(host, self._ip_port))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def _admitted(self, scope: Scope, fields: dict[str, list[str]], headers: Headers) -> Response | None:
        """Put the token into a cookie, and take it out of the address, so that it is not in the history."""
        if scope["method"] != "GET":
            return None
        del fields["token"]
        rest = urlencode(fields, doseq=True)
        path = "/" + scope["path"].lstrip("/")  # `//elsewhere` would name another server
        address = quote(path, _PATH_CHARS) + (f"?{rest}" if rest else "")
        answer: Response = RedirectResponse(address, 303)
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # A browser keeps a strict cookie back from a redirect that began on another site, but not from our page.
            answer = HTMLResponse(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}">')
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer


def _caused_elsewhere(headers: Headers, method: str) -> str | None:
    """Return why a request comes from another site; None if nothing says so.

    A browser sends Origin with every POST and with every request to another origin, and Sec-Fetch-Site with all.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and origin.lower() != f"http://{headers['host'].lower()}":
        return "a page of another origin sent this"
    if site is not None and site not in {"same-origin", "none"} and not (method == "GET" and _is_navigation(headers)):
        return "a page of another site sent this"
    if method not in {"GET", "HEAD"} and origin is None and site is None:
        return "a request that writes must say its origin"
    return None


def _is_address(host: str, port: int) -> bool:
    """Return whether a Host is an IP address with this port, which browsers leave out if it is 80."""
    if port == 80 and not host.endswith(":80"):
        host += ":80"
    name, _, given = host.rpartition(":")
    try:
        ipaddress.IPv6Address(name[1:-1]) if name[:1] + name[-1:] == "[]" else ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return given == str(port)


def _is_navigation(headers: Headers) -> bool:
    """Return whether a person followed a link from elsewhere, which shows a page to them alone."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _refused(why: str, status: int) -> Response:
    return PlainTextResponse(f"refused: {why}\n", status)
