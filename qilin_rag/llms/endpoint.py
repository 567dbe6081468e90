"""Ask one server: the same keys, limits, errors and advice for chats, embeddings and whatever else it offers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from qilin_rag.core.errors import UsageError
from qilin_rag.core.plugins import refuse_secrets
from qilin_rag.llms import connection
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.events import read_body
from qilin_rag.llms.limiter import AdaptiveLimit
from qilin_rag.llms.refusal_bodies import Refusal, read_refusal, without_echo
from qilin_rag.llms.refusals import Caller, refusal_error
from qilin_rag.llms.retry import TransientError

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
_KEY_NAMES = ("key", "code", "sig", "signature")


class RefusedError(Exception):
    """A reply that is not an answer."""

    def __init__(self, status: int, headers: Mapping[str, Any], body: Any) -> None:
        """Set what the server sent."""
        super().__init__(f"HTTP {status}")
        self.status, self.headers, self.body = status, headers, body

    def read(self, sent_texts: Sequence[str]) -> Refusal:
        """Return the refusal, without repeated parts of what was sent."""
        return without_echo(read_refusal(self.status, self.headers, self.body), sent_texts)


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
        self._client: openai.AsyncOpenAI | None = None
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
        import openai

        client = connection.open_client(self.base_url, self.api_key(), self._query, self._timeout_s, self._section)
        try:
            listed = connection.list_models(client, self._options(), self._timeout_s, self._section)
        except (openai.APIConnectionError, httpx2.RequestError) as error:
            cause = self.redacted(str(error.__cause__ or error))
            raise connection.no_answer(
                self.base_url, cause, self.model or "MODEL", has_engine, self._section
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            refused = refusal_error(error.status_code, error.response.headers, error.response.content, self.caller)
            if isinstance(refused, FatalLLMError) and "scope" not in str(
                refused
            ):  # a key may lack the permission to list models
                raise refused from error
            return None
        except connection.MovedError as error:
            if error.has_same_ending:
                raise
            return None  # to a page about it, or a login; the first request will tell
        except (openai.OpenAIError, AttributeError, TypeError, ValueError):
            return None  # some servers answer requests but do not list models
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
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self._timeout_s):
                content = await self._content(path, body)
            return _parsed(content)
        except TimeoutError as error:
            raise TransientError(f"no answer within {self._timeout_s:g} s") from error
        except (openai.APIConnectionError, httpx2.RequestError, OSError) as error:
            raise NoConnectionError(self.redacted(str(error.__cause__ or error))) from error
        except openai.APIStatusError as error:
            raise RefusedError(error.status_code, error.response.headers, error.response.content) from error
        except (openai.OpenAIError, ValueError) as error:
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

    def _options(self) -> Any:
        """Return what goes with each request beside its body."""
        import openai

        if not (key := self.api_key()):
            return {"headers": {"Authorization": openai.omit}}
        return {"headers": connection.headers_for(self.base_url, key)}

    async def _content(self, path: str, body: Mapping[str, Any]) -> bytes | dict[str, Any]:
        import httpx2
        import openai

        if self._client is None:
            self._client = connection.open_async_client(
                self.base_url, self.api_key() or "none", self._query, self._timeout_s, self._section
            )
        # Not chat.completions.create: walking through its types takes longer than the call itself.
        response: Any = await self._client.post(
            path,
            cast_to=httpx2.Response,
            body=body,
            options=self._options(),
            stream=True,  # we read it as it arrives
            stream_cls=openai.AsyncStream[Any],
        )
        try:
            return await read_body(response.aiter_bytes())
        finally:
            await response.aclose()


def lost_connection(error: BaseException) -> bool:
    """Return whether a call failed, after all its tries, because the server can't be reached."""
    import httpx2
    import openai

    cause = error.__cause__
    return isinstance(cause, TransientError) and isinstance(
        cause.__cause__, openai.APIConnectionError | httpx2.RequestError
    )


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
