"""Any server that speaks OpenAI's chat completions: vLLM, llama.cpp, the public APIs.

Every sampling field is sent with every request: a server fills in what is missing from the model's own
generation_config, and the same command would mean different sampling on different servers. Only what a model refuses
is left out, by a null in its preset.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import random
import re
import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, PrivateAttr, field_validator

from qilin_rag.errors import UsageError
from qilin_rag.llms.base import LLM, ContextOverflowError, FatalLLMError, LLMError, ThinkingMarkers
from qilin_rag.llms.limiter import AdaptiveLimit
from qilin_rag.llms.replies import FILTERED, PASSING, read_again, read_ending, read_reply, read_usage
from qilin_rag.llms.retry import TransientError, parse_retry_after, with_retries
from qilin_rag.prompts import RenderedPrompt
from qilin_rag.types import Completion

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 5.0
NO_MODEL = ("model_not_found", "1211")
FILTER_CODES = ("content_filter", "data_inspection_failed", "1301")
# What a server says of a model that another one of the same name may not share (vLLM: the folder, the length).
_SERVED = ("root", "max_model_len", "parent", "owned_by")
_VERSION = re.compile(r"[-_@:](latest|\d{4}-\d{2}-\d{2}|\d{8}|\d{6}|\d{4})$")
_TOO_LONG = re.compile(
    r"context (length|window|size)|(prompt|input) is too long|too many (input )?tokens", re.IGNORECASE
)


class _Choice(BaseModel):
    message: Any = None
    text: Any = None  # of servers that answer chats as if they were completions
    finish_reason: Any = None


class ChatCompletion(BaseModel):
    """What is read of a server's answer, in whatever form its parts are; all else is passed over."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    model: Any = None
    usage: Any = None


class OpenAICompatible(LLM):
    """One model behind one address.

    `api_key_env` names the environment variable that holds the key (servers on this machine need none).
    A sampling field that is null is not sent, and `max_tokens` is sent under the name `max_tokens_field`.
    `extra_body` is sent as it is, for fields that only some servers know. `context_length` and
    `max_tokens` (of the answer) bound the prompt. `thinking_markers` (pairs, such as `[[<cot>, </cot>]]`) tell where
    the model thinks, beside those that are known of all models. `timeout_s` is the deadline of one request. `engine`
    (vllm or llamacpp, with its settings) is what `serve` and `run --serve` start; it counts where they do.
    """

    version: ClassVar[int] = 2
    operational: ClassVar[frozenset[str]] = LLM.operational | {
        "base_url",
        "api_key_env",
        "timeout_s",
        "max_tries",
        "engine",
    }

    outward: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env"})

    takes_images: ClassVar[bool] = True

    model: str
    base_url: str = "http://127.0.0.1:8000/v1"
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    top_p: float | None = 1.0
    max_tokens: PositiveInt = 1024
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    seed: int | None = 0
    extra_body: dict[str, Any] = {}
    context_length: PositiveInt = 32768
    timeout_s: PositiveFloat = 180.0
    max_tries: PositiveInt = 10
    engine: dict[str, Any] | None = None
    thinking_markers: ThinkingMarkers = []

    _client: openai.AsyncOpenAI | None = PrivateAttr(default=None)
    _limit: AdaptiveLimit | None = PrivateAttr(default=None)
    _served: dict[str, Any] = PrivateAttr(default_factory=dict)
    _rng: random.Random = PrivateAttr(default_factory=random.Random)
    _is_model_said: bool = PrivateAttr(default=False)

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, base_url: str) -> str:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # a wrong port raises
            raise ValueError("expected an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address is written down, so it must hold no password or ?query; use api_key_env")
        return base_url.rstrip("/")

    @field_validator("engine", mode="before")
    @classmethod
    def _named_engine(cls, engine: Any) -> Any:
        return {"name": engine} if isinstance(engine, str) else engine

    @property
    def prompt_budget(self) -> int:
        """What the answer leaves of the context."""
        if self.max_tokens >= self.context_length:
            raise UsageError(
                f"llm.max_tokens ({self.max_tokens}) leaves no room for a prompt in "
                f"llm.context_length ({self.context_length})"
            )
        return self.context_length - self.max_tokens

    @property
    def answer_budget(self) -> int:
        """As it is sent."""
        return self.max_tokens

    @property
    def _is_local(self) -> bool:
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def _api_key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"the key in {self.api_key_env} holds characters that no key has; set it again")
        if key or self._is_local:
            return key or "none"
        raise UsageError(f"{self.base_url} needs a key: set the environment variable {self.api_key_env}")

    def _client_settings(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "api_key": self._api_key(), "max_retries": 0}

    def check(self) -> dict[str, Any]:
        """Ask the server for its models: fails within seconds if there is no server, no such model, or a bad key."""
        import openai

        http_client = openai.DefaultHttpxClient(trust_env=not self._is_local)
        client = openai.OpenAI(**self._client_settings(), timeout=CHECK_TIMEOUT_S, http_client=http_client)
        try:
            listed = {model.id: model.to_dict() for model in client.models.list().data}
            served = list(listed)
        except openai.APIConnectionError as error:
            raise self._no_server(self._redacted(str(error.__cause__ or error))) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._key_refused(error) from error
        except (openai.OpenAIError, AttributeError, TypeError, ValueError):
            return {"base_url": self.base_url}  # some servers answer chats but do not list models
        finally:
            client.close()
        if served and self.model not in served and self._is_local:
            raise UsageError(
                f"{self.base_url} serves {', '.join(map(repr, served[:5]))}, not {self.model!r}; "
                "name one of them with --set llm.model=NAME"
            )
        details = listed.get(self.model, {})
        self._served = {key: details[key] for key in _SERVED if key in details}
        return {"base_url": self.base_url, "models": [model for model in served if model == self.model], **self._served}

    def _no_server(self, cause: str) -> FatalLLMError:
        if not self._is_local:
            return FatalLLMError(f"no answer from {self.base_url} ({cause}); check the address and the network")
        if self.engine:
            return FatalLLMError(
                f"no server answers at {self.base_url} ({cause}); start the engine of this preset for this run with "
                "--serve, or for several with the command serve; or give another address with --base-url"
            )
        port = urlsplit(self.base_url).port or 80
        return FatalLLMError(
            f"no server answers at {self.base_url} ({cause}); start one in an environment that has vLLM: "
            f"vllm serve {self.model} --port {port}, or give another address with --base-url"
        )

    def _key_refused(self, error: openai.APIStatusError) -> FatalLLMError:
        return FatalLLMError(
            f"{self.base_url} refused the key in {self.api_key_env} ({error.status_code}); check that variable"
        )

    def request(self, prompt: RenderedPrompt) -> dict[str, Any]:
        """Address, what the server said of its model, and what it is sent."""
        extra = {"extra_body": self.extra_body or None}
        markers = {"thinking_markers": self.thinking_markers} if self.thinking_markers else {}
        return {"base_url": self.base_url, "served": self._served, **self._body(prompt), **extra, **markers}

    def read_again(self, kept: Completion) -> Completion:
        """Read the text of an answer that an older version kept by the rules of this one."""
        return read_again(kept, self.thinking_markers, self.max_tokens)

    def _body(self, prompt: RenderedPrompt) -> dict[str, Any]:
        sampling = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            self.max_tokens_field: self.max_tokens,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.seed,
        }
        return {
            "model": self.model,
            "messages": _with_images(prompt),
            **{name: value for name, value in sampling.items() if value is not None},
            "n": 1,
            "stream": False,
        }

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """One chat completion, tried again up to `max_tries` times where that can help."""
        try:
            return await with_retries(lambda: self._limited_call(prompt), self.max_tries, self._rng)
        except TransientError as error:
            import openai

            if isinstance(error.__cause__, openai.APIConnectionError):
                await asyncio.to_thread(self.check)  # stops the run if the server is gone, not only for this question
            raise LLMError(f"{error} ({self.max_tries} tries)") from error

    async def _limited_call(self, prompt: RenderedPrompt) -> Completion:
        """One try, when the server can be expected to take it."""
        if self._limit is None:
            self._limit = AdaptiveLimit()
        async with self._limit.call() as begun_in:
            try:
                completion = await self._call(prompt)
            except TransientError as error:
                if error.is_overload:
                    self._limit.slow_down(begun_in)
                raise
            self._limit.speed_up()
            return completion

    def _open_client(self) -> openai.AsyncOpenAI:
        """A client over aiohttp: httpx looks through all its connections for each call."""
        import httpx2
        import openai

        limits = httpx2.Limits(max_connections=0)  # aiohttp's way to say no limit: --concurrency is the limit
        http_client = openai.DefaultAioHttpClient(trust_env=not self._is_local, limits=limits)
        return openai.AsyncOpenAI(**self._client_settings(), timeout=self.timeout_s, http_client=http_client)

    async def _call(self, prompt: RenderedPrompt) -> Completion:
        import openai

        if self._client is None:
            self._client = self._open_client()
        body = {**self._body(prompt), **self.extra_body}
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s):
                # Not chat.completions.create: walking through its types takes longer than the call itself.
                content = await self._client.post("/chat/completions", cast_to=bytes, body=body)
            latency_s = time.perf_counter() - started
            reply = ChatCompletion.model_validate(json.loads(content))
        except TimeoutError as error:
            raise TransientError(f"no answer within {self.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            raise TransientError(self._redacted(f"connection failed: {error.__cause__ or error}")) from error
        except openai.APIStatusError as error:
            if _is_filtered(error):
                return Completion(text="", raw="", model=self.model, finish_reason=FILTERED)
            raise self._status_error(error) from error
        except (openai.OpenAIError, ValueError) as error:
            raise TransientError(f"unreadable answer: {self._redacted(' '.join(str(error).split()))[:200]}") from error
        return self._completion(reply, latency_s)

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        """What a refusal means: for this question, for all, or only for now."""
        text = f"HTTP {error.status_code}: {self._redacted(error.message)[:300]}"
        if error.status_code in (401, 403):
            return self._key_refused(error)
        if error.status_code == 404 or (error.status_code < 500 and error.code in NO_MODEL):
            return FatalLLMError(f"{self.base_url} knows no model {self.model!r} or no such path ({text})")
        if error.code == "insufficient_quota":
            return FatalLLMError(f"{self.base_url}: the account's quota is used up ({text})")
        if error.status_code in (408, 409, 425, 429) or error.status_code >= 500:
            retry_after_s = parse_retry_after(error.response.headers.get("retry-after"))
            return TransientError(text, retry_after_s, is_overload=error.status_code in (429, 503))
        if error.status_code in (400, 413, 422) and (
            error.code == "context_length_exceeded" or _TOO_LONG.search(error.message)
        ):
            return ContextOverflowError(text)
        return LLMError(text)

    def _redacted(self, text: str) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        return text.replace(key, "***") if len(key) >= 8 else text

    def _completion(self, reply: ChatCompletion, latency_s: float) -> Completion:
        choice = reply.choices[0]
        ended = read_ending(choice.finish_reason)
        if ended == PASSING:
            raise TransientError(f"the server ended the answer with {choice.finish_reason!r}")
        model = reply.model if isinstance(reply.model, str) and reply.model else self.model
        if not self._is_model_said and not _is_same_model(self.model, model):
            self._is_model_said = True
            logger.warning(
                "%s answers as %r where %r was asked for (said once); "
                "where that is not the same by another name, the answers are another model's",
                self.base_url,
                model,
                self.model,
            )
        completion = read_reply(
            choice.text if choice.message is None else choice.message,
            ended,
            read_usage(reply.usage),
            markers=self.thinking_markers,
            most_tokens=self.max_tokens,
        )
        return completion.model_copy(update={"model": model, "latency_s": latency_s})

    async def close(self) -> None:
        """Close the connections, and forget what was learnt on this event loop."""
        self._limit = None
        if self._client is not None:
            await self._client.close()
            self._client = None


def _is_same_model(asked: str, answered: str) -> bool:
    """Whether two names stand for one model: in any case, with or without an owner before and a version after it."""
    asked, answered = (name.lower().rpartition("/")[2] for name in (asked, answered))
    return asked in (answered, _VERSION.sub("", answered)) or _VERSION.sub("", asked) == answered


def _with_images(prompt: RenderedPrompt) -> list[dict[str, Any]]:
    """The messages as they are sent; where there are images, the last one in parts."""
    *before, last = prompt.messages
    if not prompt.images:
        return [*before, last]
    parts = [{"type": "image_url", "image_url": {"url": image.data_url}} for image in prompt.images]
    return [*before, {**last, "content": [{"type": "text", "text": last["content"]}, *parts]}]


def _is_filtered(error: openai.APIStatusError) -> bool:
    """Whether a refusal comes from the provider's content filter."""
    return error.status_code == 400 and error.code in FILTER_CODES
