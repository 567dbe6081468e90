"""Send the requests of a run to one server, with as little work a request as aiohttp needs.

OpenAI's client and httpx make addresses, headers and types anew for each request, which takes three quarters of the CPU
time of a call. Here they are made once.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qilin_rag.llms import connection
from qilin_rag.llms.events import read_body
from qilin_rag.llms.refusal_bodies import Refusal, read_refusal, without_echo

if TYPE_CHECKING:
    import aiohttp

_MOST_REDIRECTS = 20
_CHUNK_BYTES = 2**16
_IDLE_S = 5.0  # before a connection is closed; many servers close theirs later, none much earlier


class RefusedError(Exception):
    """A reply that is not an answer."""

    def __init__(self, status: int, headers: Mapping[str, Any], body: Any) -> None:
        """Set what the server sent."""
        super().__init__(f"HTTP {status}")
        self.status, self.headers, self.body = status, headers, body

    def read(self, sent_texts: Sequence[str]) -> Refusal:
        """Return the refusal, without repeated parts of what was sent."""
        return without_echo(read_refusal(self.status, self.headers, self.body), sent_texts)


class Client:
    """Connections to one server, for one event loop; they are kept for the next requests."""

    def __init__(self, address: str, key: str, query: Mapping[str, str], section: str = "llm") -> None:
        """Open the client on the running event loop; the first request connects.

        Args:
            address: The address of the server.
            key: The key; none is sent if it is empty.
            query: Parameters after each address.
            section: The section of the configuration that names the server, for messages.

        Raises:
            UsageError: if the proxy or the certificates of the environment can't be used.
        """
        import aiohttp

        self._address, self._query, self._section = address, query, section
        route = connection.route_to(address)
        self._proxy = route.proxy
        # 0 is no limit: concurrency is the limit.
        connector = aiohttp.TCPConnector(limit=0, ssl=route.certificates, keepalive_timeout=_IDLE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=connection.request_headers(address, key),
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # a balancer may know its server by a cookie
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._urls: dict[str, Any] = {}

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes | dict[str, Any]:
        """Send one request; return the body of the reply as `read_body` does.

        Raises:
            RefusedError: if the status says that the server refuses it.
            MovedError: if it is redirected to another host, or in a way that would drop it.
            aiohttp.ClientError, OSError: if there is no reply, or it is cut off.
            TransientError, ValueError: if the reply can't be read.
        """
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        async with self._answered("POST", path, data=content) as response:
            await _check(response)
            return await read_body(response.content.iter_chunked(_CHUNK_BYTES))

    async def get(self, path: str) -> bytes | dict[str, Any]:
        """Get a path, which may have a ?query of its own; return the body and raise errors as `post` does."""
        async with self._answered("GET", path) as response:
            await _check(response)
            return await read_body(response.content.iter_chunked(_CHUNK_BYTES))

    async def send_file(self, path: str, fields: Mapping[str, str], file: Path, name: str) -> bytes | dict[str, Any]:
        """Post a file with other fields of a form; return the body and raise errors as `post` does.

        Args:
            path: The path at the server.
            fields: The other fields.
            file: The file.
            name: The name of the file for the server.
        """
        import aiohttp

        with file.open("rb") as content:
            form = aiohttp.MultipartWriter("form-data")
            for field, value in fields.items():
                form.append(value).set_content_disposition("form-data", name=field)
            part = form.append(content, {"Content-Type": "application/jsonl"})
            part.set_content_disposition("form-data", name="file", filename=name)
            async with self._answered("POST", path, data=form, headers=dict(form.headers)) as response:
                await _check(response)
                return await read_body(response.content.iter_chunked(_CHUNK_BYTES))

    async def download(self, path: str, write: Callable[[bytes], None]) -> None:
        """Pass the body of a reply on, a part at a time; raise errors as `post` does."""
        async with self._answered("GET", path) as response:
            await _check(response)
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                write(chunk)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    @asynccontextmanager
    async def _answered(self, method: str, path: str, **sent: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response to a request, which follows redirects on the same host that keep it."""
        if (url := self._urls.get(path)) is None:
            import yarl

            url = yarl.URL(connection.full_address(self._address, path, self._query), encoded=True)
            if method == "POST":  # to few paths; those of a GET are many
                self._urls[path] = url
        sent |= {"allow_redirects": False, "proxy": self._proxy}
        for _ in range(_MOST_REDIRECTS):
            async with self._session.request(method, url, **sent) as response:
                to = self._redirect(response) if 300 <= response.status < 400 else None
                if to is None:
                    yield response
                    return
                url = to
        async with self._session.request(method, url, **sent) as response:
            yield response

    def _redirect(self, response: aiohttp.ClientResponse) -> Any:
        """Return the address to which the same request may go; None if the response is no redirect that can be read.

        Raises:
            MovedError: if the request must not go there.
        """
        import httpx2
        import yarl

        redirect = httpx2.Response(
            response.status,
            headers=[*response.headers.items()],
            request=httpx2.Request(response.method, str(response.url)),
        )
        to = connection.redirect_of(redirect, self._address, self._section)
        return to and yarl.URL(str(to), encoded=True)


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise a RefusedError if the status is not that of an answer."""
    if not response.ok or response.status >= 300:
        raise RefusedError(response.status, response.headers, await response.read())
