"""Client of any server with OpenAI's chat completions: vLLM, llama.cpp, the public APIs.

Every sampling field is sent with every request. A server fills in missing fields from the model's own
generation_config, so that the same command would mean different sampling on different servers. Only a field that a
model refuses is left out, by a null in its preset.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, PrivateAttr, field_validator, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.plugins import refuse_secrets
from qilin_rag.core.types import Completion, Image, RenderedPrompt
from qilin_rag.llms import connection
from qilin_rag.llms.base import LLM, FatalLLMError, LLMError, ThinkingMarkers
from qilin_rag.llms.events import must_stream, read_body, refuses_usage
from qilin_rag.llms.image_parts import messages_in_parts
from qilin_rag.llms.image_tokens import Rule, rule_of
from qilin_rag.llms.limiter import AdaptiveLimit
from qilin_rag.llms.refusal_bodies import read_refusal, refusal_in_answer, without_echo
from qilin_rag.llms.refusals import Caller, as_error, ask_with_retries, refusal_error
from qilin_rag.llms.replies import PASSING, read_again, read_ending, read_reply, read_usage
from qilin_rag.llms.retry import TransientError

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

# Properties of a served model that another model of the same name may not share (vLLM: folder, length).
_SERVED = ("root", "max_model_len", "parent", "owned_by")
_VERSION = re.compile(r"[-_@:](latest|\d{4}-\d{2}-\d{2}|\d{8}|\d{6}|\d{4})$")
# How to leave out a field that a server refuses.
_LEFT_OUT = {
    **{
        name: f"leave it out with --set llm.{name}=null"
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
    },
    "max_completion_tokens": "rename it with --set llm.max_tokens_field=max_completion_tokens",
}


class _Choice(BaseModel):
    message: Any = None
    text: Any = None  # from servers that answer chats in the form of completions
    finish_reason: Any = None


class ChatCompletion(BaseModel):
    """The parts of a server's reply that are read, in whatever form; all others are ignored."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    model: Any = None
    usage: Any = None


class OpenAICompatible(LLM):
    """A model behind an OpenAI-compatible address.

    Args:
        model (str): The name of the model at the server.
        base_url (str): The address of the server.
        query (dict): Parameters after each address, such as Azure's `{api-version: 2024-10-21}`. At Azure's addresses,
            the key goes into the header `api-key`.
        api_key_env (str): The environment variable that holds the key; servers on this machine need none.
        temperature (float): The sampling temperature; null is not sent.
        top_p (float): The probability mass of nucleus sampling; null is not sent.
        max_tokens (int): The most tokens of an answer.
        max_tokens_field (str): The name under which `max_tokens` is sent.
        presence_penalty (float): The presence penalty; null is not sent.
        frequency_penalty (float): The frequency penalty; null is not sent.
        seed (int): The seed of sampling; null is not sent.
        n (int): The number of answers, 1; null is not sent.
        stream (bool): Whether to read answers as a stream, for models that can only be streamed; null is not sent. A
            server that says so is streamed automatically.
        extra_body (dict): More fields of the request, sent unchanged, that only some servers know.
        context_length (int): The most tokens of prompt and answer together.
        timeout_s (float): The longest time of one request, in seconds.
        max_tries (int): The most tries of one request.
        engine (dict): The engine (`vllm` or `llamacpp`, with its settings) that `serve` and `run --serve` start; it
            only counts for these.
        thinking_markers (list of pairs): Texts around the model's thinking, such as `[[<cot>, </cot>]]`, in addition to
            the known ones.
        images (bool): Whether the model reads images; one that does not is not asked with images.
        image_tokens (str): How the model counts the tokens of an image: `qwen2-vl`, `qwen3-vl`, `openai-tiles`,
            `anthropic` or `gemini`; null goes by the model's name.
        price (Price): What the provider charges; null if it is not known.

    Raises:
        UsageError: if the settings leave no room for a prompt, or a setting holds a key.

    Example:
        >>> llm = OpenAICompatible(model="qwen2.5-7b", base_url="http://127.0.0.1:8000/v1", max_tokens=512)
        >>> llm.prompt_budget
        32256
    """

    version: ClassVar[int] = 2
    only_if_set: ClassVar[frozenset[str]] = frozenset({"image_tokens"})
    operational: ClassVar[frozenset[str]] = LLM.operational | {
        "images",
        "base_url",
        "api_key_env",
        "timeout_s",
        "max_tries",
        "engine",
        "n",
        "query",
        "stream",
    }

    outward: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env"})

    takes_images: ClassVar[bool] = True

    model: str
    base_url: str = "http://127.0.0.1:8000/v1"
    query: dict[str, str] = {}
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    top_p: float | None = 1.0
    max_tokens: PositiveInt = 1024
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    seed: int | None = 0
    n: Literal[1] | None = 1
    stream: bool | None = False
    extra_body: dict[str, Any] = {}
    context_length: PositiveInt = 32768
    timeout_s: PositiveFloat = 180.0
    max_tries: PositiveInt = 10
    engine: dict[str, Any] | None = None
    thinking_markers: ThinkingMarkers = []
    images: bool = True
    image_tokens: Rule | None = None

    _client: openai.AsyncOpenAI | None = PrivateAttr(default=None)
    _limit: AdaptiveLimit | None = PrivateAttr(default=None)
    _served: dict[str, Any] = PrivateAttr(default_factory=dict)
    _rng: random.Random = PrivateAttr(default_factory=random.Random)
    _is_model_said: bool = PrivateAttr(default=False)
    _is_stream_only: bool = PrivateAttr(default=False)
    _has_answered: bool = PrivateAttr(default=False)
    _refuses_usage: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _one_stream(cls, fields: Any) -> Any:
        """Read streaming in `extra_body` as the setting `stream`, since the request is the same."""
        extra = fields.get("extra_body") if isinstance(fields, dict) else None
        if not isinstance(extra, Mapping) or "stream" not in extra:
            return fields
        if fields.get("stream", extra["stream"]) != extra["stream"]:
            raise ValueError("extra_body.stream is llm.stream; leave one of them out")
        rest = {name: value for name, value in extra.items() if name != "stream"}
        return {**fields, "extra_body": rest, "stream": extra["stream"]}

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, base_url: str) -> str:
        parts = urlsplit(base_url)
        if (
            parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        ):  # reading a wrong port raises
            raise ValueError("expected an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "an address is stored with every run, so it can't hold a password or ?query; a key goes to the "
                "variable that api_key_env names, any other query to llm.query, such as {api-version: 2024-10-21}"
            )
        return base_url.rstrip("/")

    @field_validator("query", mode="before")
    @classmethod
    def _plain_query(cls, query: Any) -> Any:
        if not isinstance(query, Mapping):
            return query
        refuse_secrets(query, "llm.query")
        if secret := next((name for name in query if str(name).lower() in ("key", "code", "sig", "signature")), None):
            raise ValueError(f"{secret} holds a key, and settings are stored with every run; use api_key_env")
        return {name: str(value) if isinstance(value, int | float) else value for name, value in query.items()}

    @field_validator("engine", mode="before")
    @classmethod
    def _named_engine(cls, engine: Any) -> Any:
        return {"name": engine} if isinstance(engine, str) else engine

    @property
    def prompt_budget(self) -> int:
        """Return the tokens of the context that the answer leaves."""
        if self.max_tokens >= self.context_length:
            raise UsageError(
                f"llm.max_tokens ({self.max_tokens}) leaves no room for a prompt in "
                f"llm.context_length ({self.context_length})"
            )
        return self.context_length - self.max_tokens

    @property
    def answer_budget(self) -> int:
        """Return `max_tokens`, which is sent."""
        return self.max_tokens

    @property
    def sends_images(self) -> bool:
        """Return whether the model reads images, as far as it is known."""
        return self.images

    @property
    def image_rule(self) -> Rule | None:
        """Return how images are counted: as set, or by the model's name."""
        return self.image_tokens or rule_of(self.model)

    @property
    def _is_local(self) -> bool:
        return connection.is_local(self.base_url)

    def api_key(self) -> str:
        """Return the key that is sent.

        Raises:
            UsageError: if an address that needs a key has none, or the key has invalid characters.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"the key in {self.api_key_env} has characters that are invalid in a key; set it again")
        if key or self._is_local:
            return key or "none"
        raise UsageError(f"{self.base_url} needs a key: set the environment variable {self.api_key_env}")

    def _options(self) -> Any:
        """Return what goes with each request beside its body."""
        return {"headers": connection.headers_for(self.base_url, self.api_key())}

    def check(self) -> dict[str, Any]:
        """Ask the server for its models; fail within seconds if there is no server, no such model, or a wrong key.

        A slow server is waited for, up to `timeout_s`.
        """
        import httpx2
        import openai

        client = connection.open_client(self.base_url, self.api_key(), self.query, self.timeout_s)
        try:
            listed = connection.list_models(client, self._options(), self.timeout_s)
            served = list(listed)
        except (openai.APIConnectionError, httpx2.RequestError) as error:
            cause = self._redacted(str(error.__cause__ or error))
            raise connection.no_answer(self.base_url, cause, self.model, bool(self.engine)) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            refused = refusal_error(*_response(error), self._caller)
            if isinstance(refused, FatalLLMError) and "scope" not in str(
                refused
            ):  # a key may lack the permission to list models
                raise refused from error
            return {"base_url": self.base_url}
        except connection.MovedError as error:
            if error.has_same_ending:
                raise
            return {"base_url": self.base_url}  # to a page about it, or a login; the first question will tell
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

    @property
    def _caller(self) -> Caller:
        return Caller(
            name=self.base_url,
            no_model=f" knows no model {self.model!r} or no such path",
            key=f" refused the key in {self.api_key_env}",
            check="check that variable",
            redact=self._redacted,
            fields=_LEFT_OUT,
        )

    def request(self, prompt: RenderedPrompt) -> dict[str, Any]:
        """Return the address, the server's facts of the model and the body, without the mode of delivery."""
        extra = {"extra_body": self.extra_body or None, **({"query": self.query} if self.query else {})}
        markers = {"thinking_markers": self.thinking_markers} if self.thinking_markers else {}
        body = self._body(prompt._replace(images=()))
        # Keys of requests whose images have no places hold them whole, as in earlier versions.
        image_part = _image_by_hash if prompt.image_places else _image_part
        messages = {"messages": messages_in_parts(prompt, image_part)}
        return {"base_url": self.base_url, "served": self._served, **body, **messages, **extra, **markers}

    def read_again(self, kept: Completion) -> Completion:
        """Read the text of a stored answer of an older version by the rules of this one."""
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
            "messages": messages_in_parts(prompt, _image_part),
            **{name: value for name, value in sampling.items() if value is not None},
            "n": 1,
            "stream": False,
        }

    def _sent(self, prompt: RenderedPrompt) -> dict[str, Any]:
        """Return the body without fields that change no answer: streaming, and null fields."""
        streams = True if self._is_stream_only else self.stream
        usage_options = {"stream_options": {"include_usage": True}} if streams and not self._refuses_usage else {}
        body = {**self._body(prompt), "n": self.n, "stream": streams, **usage_options}
        return {name: value for name, value in body.items() if value is not None} | self.extra_body

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """Return one chat completion, with up to `max_tries` tries if repeating can help."""
        try:
            return await ask_with_retries(lambda: self._limited_call(prompt), self.max_tries, self._rng, self.model)
        except LLMError as error:
            import httpx2
            import openai

            if isinstance(error.__cause__, TransientError) and isinstance(
                error.__cause__.__cause__, openai.APIConnectionError | httpx2.RequestError
            ):
                await asyncio.to_thread(self.check)  # stops the whole run if the server is gone
            raise

    async def _limited_call(self, prompt: RenderedPrompt) -> Completion:
        """Make one try, once the server can be expected to accept it."""
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

    async def _call(self, prompt: RenderedPrompt) -> Completion:
        """Make one call, and repeat it at once in another form if the server asks for one."""
        import httpx2
        import openai

        body = self._sent(prompt)
        started = time.perf_counter()
        refused: tuple[int, Mapping[str, Any], Any] | None = None
        try:
            async with asyncio.timeout(self.timeout_s):
                content = await self._post(body)
            latency_s = time.perf_counter() - started
            value = _parsed(content)
            if (error_part := refusal_in_answer(value)) is not None:
                refused = (200, {}, error_part)
            else:
                reply = ChatCompletion.model_validate(value)
        except TimeoutError as error:
            raise TransientError(f"no answer within {self.timeout_s:g} s") from error
        except (openai.APIConnectionError, httpx2.RequestError, OSError) as error:
            raise TransientError(self._redacted(f"connection failed: {error.__cause__ or error}")) from error
        except openai.APIStatusError as error:
            refused = _response(error)
        except (openai.OpenAIError, ValueError) as error:
            raise TransientError(f"unreadable answer: {self._redacted(' '.join(str(error).split()))[:200]}") from error
        if refused is not None:
            refusal = without_echo(
                read_refusal(*refused), [prompt.query, *(message["content"] for message in prompt.messages)]
            )
            if self._adapts_to(refusal.words, body):
                return await self._call(prompt)
            raise as_error(refusal, self._caller)
        completion = self._completion(reply, latency_s)
        self._has_answered = True
        return completion

    async def _post(self, body: dict[str, Any]) -> bytes | dict[str, Any]:
        import httpx2
        import openai

        if self._client is None:
            self._client = connection.open_async_client(self.base_url, self.api_key(), self.query, self.timeout_s)
        # Not chat.completions.create: walking through its types takes longer than the call itself.
        response: Any = await self._client.post(
            "/chat/completions",
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

    def _adapts_to(self, refusal: str, body: Mapping[str, Any]) -> bool:
        """Return whether the server refused the form of a request and the next one will differ; log it once."""
        if must_stream(refusal) and (self._is_stream_only or not self._has_answered):
            if body.get("stream"):
                reason = self._redacted(refusal)[:300]
                raise FatalLLMError(f"{self.base_url} refuses {self.model!r} with a stream and without one ({reason})")
            if not self._is_stream_only:
                logger.warning(
                    "%s can only be streamed, so its answers are read as a stream (reported once)", self.model
                )
            self._is_stream_only = True
            return True
        if "stream_options" in body and "stream_options" not in self.extra_body and refuses_usage(refusal):
            if not self._refuses_usage:
                logger.warning("%s does not count the tokens of a stream (reported once)", self.base_url)
            self._refuses_usage = True
            return True
        return False

    def _redacted(self, text: str) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        return text.replace(key, "***") if len(key) >= 8 else text

    def _completion(self, reply: ChatCompletion, latency_s: float) -> Completion:
        choice = reply.choices[0]
        ended = read_ending(choice.finish_reason)
        if ended == PASSING:
            raise TransientError(self._redacted(f"the server ended the answer with {choice.finish_reason!r}"))
        model = reply.model if isinstance(reply.model, str) and reply.model else self.model
        if not self._is_model_said and not _is_same_model(self.model, model):
            self._is_model_said = True
            logger.warning(
                "%s answers as %r, but %r was requested (reported once); "
                "if these are not two names of one model, the answers are another model's",
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
        redacted_texts = {
            name: self._redacted(text)
            for name in ("finish_reason", "why_empty")
            if (text := getattr(completion, name)) is not None
        }
        return completion.model_copy(update={"model": model, "latency_s": latency_s, **redacted_texts})

    async def close(self) -> None:
        """Close the connections, and forget what was learnt on this event loop."""
        self._limit = None
        if self._client is not None:
            await self._client.close()
            self._client = None


def _is_same_model(requested: str, answered: str) -> bool:
    """Return whether two names mean one model, in any case, with or without an owner and a version."""
    requested, answered = (name.lower().rpartition("/")[2] for name in (requested, answered))
    return requested in (answered, _VERSION.sub("", answered)) or _VERSION.sub("", requested) == answered


def _image_part(image: Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image.data_url}}


def _image_by_hash(image: Image) -> dict[str, Any]:
    return {"type": "image", "sha256": image.sha256}


def _response(error: openai.APIStatusError) -> tuple[int, Mapping[str, str], bytes]:
    return error.status_code, error.response.headers, error.response.content


def _parsed(content: bytes | dict[str, Any]) -> Any:
    """Return a body as JSON; a body that is not JSON is unchanged."""
    try:
        return json.loads(content) if isinstance(content, bytes) else content
    except ValueError:
        return content
