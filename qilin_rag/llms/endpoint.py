"""Ask one server: the same keys, limits, errors and advice for chats, embeddings and whatever else it offers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import atomic_path, open_new, write_all, writing
from qilin_rag.core.plugins import refuse_secrets
from qilin_rag.llms import connection
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.client import Client
from qilin_rag.llms.limiter import AdaptiveLimit
from qilin_rag.llms.refusals import Caller, refusal_error
from qilin_rag.llms.retry import TransientError

T = TypeVar("T")
_FILE_TIMEOUT_S = 1800.0  # of one that is sent or fetched whole
_KEY_NAMES = ("key", "code", "sig", "signature")


class NoConnectionError(TransientError):
    """A call that did not reach the server, or was cut off."""

    def __init__(self, cause: str) -> None:
        """Set the cause in the words of the network."""
        super().__init__(f"connection failed: {cause}")
        self.cause = cause


class Endpoint:
    """A server and how it is asked, for one event loop."""

    def __init__(
        self,
        base_url: str,
        model: str | None,
        *,
        api_key_env: str,
        query: Mapping[str, str] = MappingProxyType({}),
        timeout_s: float,
        section: str = "llm",
        left_out: Mapping[str, str] = MappingProxyType({}),
        needs_key: bool = True,
    ) -> None:
        """Set the server; nothing is sent yet.

        Args:
            base_url: The address, or the whole one of the only path that is posted to.
            model: The name of the model there; None if the server has only one.
            api_key_env: The environment variable that holds the key.
            query: Parameters after each address.
            timeout_s: The longest time of one request.
            section: The section of the configuration that names the server, for messages.
            left_out: How to leave out a field that a server may refuse, by its name.
            needs_key: Whether an address on another machine needs a key; without one, no key is sent.
        """
        self.base_url = base_url
        self.model = model
        self._api_key_env = api_key_env
        self._query = query
        self._timeout_s = timeout_s
        self._section = section
        self._left_out = left_out
        self._needs_key = needs_key
        self._client: Client | None = None
        self._limit: AdaptiveLimit | None = None

    @property
    def is_local(self) -> bool:
        """Return whether the server is on this machine, and needs no key."""
        return connection.is_local(self.base_url)

    @property
    def caller(self) -> Caller:
        """Return this client as messages about refusals name it."""
        has_key = self._needs_key or bool(self.api_key())
        return Caller(
            name=self.base_url,
            no_model=f" knows no model {self.model!r} or no such path",
            key=f" refused the key in {self._api_key_env}" if has_key else f" needs a key in {self._api_key_env}",
            check="check that variable" if self._needs_key else "set or check that variable",
            redact=self.redacted,
            fields=self._left_out,
        )

    def api_key(self) -> str:
        """Return the key that is sent; empty if none is.

        Raises:
            UsageError: if an address that needs a key has none, or the key has invalid characters.
        """
        key = os.environ.get(self._api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"the key in {self._api_key_env} has characters that are invalid in a key; set it again")
        if key or not self._needs_key:
            return key
        if self.is_local:
            return "none"
        raise UsageError(f"{self.base_url} needs a key: set the environment variable {self._api_key_env}")

    def redacted(self, text: str) -> str:
        """Return a text without the key."""
        key = os.environ.get(self._api_key_env, "").strip()
        return text.replace(key, "***") if len(key) >= 8 else text

    def models(self, has_engine: bool = False) -> dict[str, dict[str, Any]] | None:
        """Ask the server for its models, by name; None if it does not list them.

        Args:
            has_engine: Whether the command `serve` can start this server.

        Raises:
            FatalLLMError: if there is no server, it is too slow, it has moved, or it refuses the key.
            UsageError: if a server on this machine has models, and not this one.
        """
        import httpx2

        client = connection.open_client(self.base_url, self.api_key(), self._query, self._timeout_s, self._section)
        try:
            listed = connection.list_models(client, self._timeout_s, self._section)
        except httpx2.RequestError as error:
            cause = self.redacted(str(error))
            raise connection.no_answer(
                self.base_url, cause, self.model or "MODEL", has_engine, self._section
            ) from error
        except httpx2.HTTPStatusError as error:
            response = error.response
            if response.status_code not in (401, 403):
                return None  # some servers answer requests but do not list models
            refused = refusal_error(response.status_code, response.headers, response.content, self.caller)
            if isinstance(refused, FatalLLMError) and "scope" not in str(
                refused
            ):  # a key may lack the permission to list models
                raise refused from error
            return None
        except connection.MovedError as error:
            if error.has_same_ending:
                raise
            return None  # to a page about it, or a login; the first request will tell
        except (httpx2.InvalidURL, AttributeError, TypeError, ValueError):
            return None
        finally:
            client.close()
        if listed and self.model not in listed and self.is_local:
            raise UsageError(
                f"{self.base_url} serves {', '.join(map(repr, list(listed)[:5]))}, not {self.model!r}; "
                f"name one of them with --set {self._section}.model=NAME"
            )
        return listed

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send one request; return the JSON of the reply, or its bytes if they are not JSON.

        Raises:
            RefusedError: if the server refuses it.
            TransientError: if there is no reply in time, or none that can be read.
        """
        return await self._asked(lambda client: client.post(path, body), self._timeout_s)

    async def get(self, path: str) -> Any:
        """Get a path, which may have a ?query of its own; return and raise as `post` does."""
        return await self._asked(lambda client: client.get(path), self._timeout_s)

    async def send_file(self, path: str, fields: Mapping[str, str], file: Path, name: str) -> Any:
        """Post a file of any size, by this name and with other fields of a form; return and raise as `post` does."""
        timeout_s = max(self._timeout_s, _FILE_TIMEOUT_S)
        return await self._asked(lambda client: client.send_file(path, fields, file, name), timeout_s)

    async def download(self, path: str, to: Path) -> None:
        """Write the reply to a GET into a file, which is there when the reply is whole; raise as `post` does."""

        async def fetch(client: Client) -> bytes:
            with atomic_path(to) as temporary, open_new(temporary) as file:

                def write(part: bytes) -> None:
                    with writing(to):
                        write_all(file, part)

                await client.download(path, write)
            return b""

        await self._asked(fetch, max(self._timeout_s, _FILE_TIMEOUT_S))

    async def _asked(self, call: Callable[[Client], Awaitable[bytes | dict[str, Any]]], timeout_s: float) -> Any:
        """Make a call by the client, which is opened on first use; see `post`."""
        import aiohttp

        if self._client is None:
            self._client = Client(self.base_url, self.api_key(), self._query, self._section)
        try:
            async with asyncio.timeout(timeout_s):
                content = await call(self._client)
            return _parsed(content)
        except TimeoutError as error:
            raise TransientError(f"no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise NoConnectionError(self.redacted(str(error))) from error
        except (ValueError, aiohttp.ClientResponseError) as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: object) -> TransientError:
        """Return the error for a reply that can't be read."""
        return TransientError(f"unreadable answer: {self.redacted(' '.join(str(error).split()))[:200]}")

    async def in_limit(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make one try of a call, once the server can be expected to accept it."""
        if self._limit is None:
            self._limit = AdaptiveLimit()
        async with self._limit.call() as begun_in:
            try:
                result = await call()
            except TransientError as error:
                if error.is_overload:
                    self._limit.slow_down(begun_in)
                raise
            self._limit.speed_up()
            return result

    async def close(self) -> None:
        """Close the connections, and forget what was learnt on this event loop."""
        self._limit = None
        if self._client is not None:
            await self._client.close()
            self._client = None


def lost_connection(error: BaseException) -> bool:
    """Return whether a call failed, after all its tries, because the server can't be reached."""
    return isinstance(error.__cause__, NoConnectionError)


def plain_address(
    base_url: str, section: str = "llm", expected: str = "like http://127.0.0.1:8000/v1", has_query: bool = True
) -> str:
    """Return an address of a configuration without a slash at its end.

    Args:
        base_url: The address.
        section: The section of the configuration that holds it.
        expected: The form of an address, for the error.
        has_query: Whether the section has a setting `query`.

    Raises:
        ValueError: if it is not an address, or holds a password or a ?query.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # reading a wrong port raises
        raise ValueError(f"expected an address {expected}")
    if parts.username or parts.password or parts.query or parts.fragment:
        query = f", any other query to {section}.query, such as {{api-version: 2024-10-21}}" if has_query else ""
        raise ValueError(
            "an address is stored with every run, so it can't hold a password or ?query; a key goes to the "
            f"variable that api_key_env names{query}"
        )
    return base_url.rstrip("/")


def plain_query(query: Any, section: str = "llm") -> Any:
    """Return the parameters after an address as texts.

    Raises:
        UsageError or ValueError: if one of them holds a key.
    """
    if not isinstance(query, Mapping):
        return query
    refuse_secrets(query, f"{section}.query")
    if secret := next((name for name in query if str(name).lower() in _KEY_NAMES), None):
        raise ValueError(f"{secret} holds a key, and settings are stored with every run; use api_key_env")
    return {name: str(value) if isinstance(value, int | float) else value for name, value in query.items()}


def _parsed(content: bytes | dict[str, Any]) -> Any:
    """Return a body as JSON; a body that is not JSON is unchanged."""
    try:
        return json.loads(content) if isinstance(content, bytes) else content
    except (ValueError, RecursionError):
        return content
