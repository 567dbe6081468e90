"""Client of any server with OpenAI's chat completions: vLLM, llama.cpp, the public APIs.

Every sampling field is sent with every request. A server fills in missing fields from the model's own
generation_config, so that the same command would mean different sampling on different servers. Only a field that a
model refuses is left out, by a null in its preset.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, PrivateAttr, field_validator, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms.base import LLM, FatalLLMError, LLMError, ThinkingMarkers
from qilin_rag.llms.client import RefusedError
from qilin_rag.llms.endpoint import Endpoint, lost_connection, plain_address, plain_query
from qilin_rag.llms.events import must_stream, refuses_usage
from qilin_rag.llms.image_parts import image_by_hash, image_by_url, messages_in_parts
from qilin_rag.llms.image_tokens import Rule, rule_of
from qilin_rag.llms.refusal_bodies import refusal_in_answer
from qilin_rag.llms.refusals import as_error, ask_with_retries
from qilin_rag.llms.replies import PASSING, STOP, read_again, read_ending, read_reply, read_usage
from qilin_rag.llms.retry import TransientError

logger = logging.getLogger(__name__)
Post = Callable[[Mapping[str, Any]], Awaitable[Any]]

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
    takes_batches: ClassVar[bool] = True

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

    _endpoint: Endpoint | None = PrivateAttr(default=None)
    _served: dict[str, Any] = PrivateAttr(default_factory=dict)
    _rng: random.Random = PrivateAttr(default_factory=random.Random)
    _is_model_said: bool = PrivateAttr(default=False)
    _is_stream_only: bool = PrivateAttr(default=False)
    _has_answered: bool = PrivateAttr(default=False)
    _refuses_usage: bool = PrivateAttr(default=False)
    _post_by: Post | None = PrivateAttr(default=None)

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
        return plain_address(base_url)

    @field_validator("query", mode="before")
    @classmethod
    def _plain_query(cls, query: Any) -> Any:
        return plain_query(query)

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
    def _server(self) -> Endpoint:
        """Return the client of the server, which is made once."""
        if (endpoint := self._endpoint) is None:
            endpoint = self._endpoint = self.new_endpoint()
        return endpoint

    @property
    def by_batch(self) -> bool:
        """Return whether requests are posted by a collector of batches."""
        return self._post_by is not None

    def new_endpoint(self) -> Endpoint:
        """Return another client of the server, whose connections are its own."""
        return Endpoint(
            self.base_url,
            self.model,
            api_key_env=self.api_key_env,
            query=self.query,
            timeout_s=self.timeout_s,
            left_out=_LEFT_OUT,
        )

    @contextmanager
    def posting_by(self, post: Post) -> Iterator[None]:
        """Send requests by this function, which takes a body and returns the reply, in place of a call each."""
        self._post_by = post
        try:
            yield
        finally:
            self._post_by = None

    def api_key(self) -> str:
        """Return the key that is sent.

        Raises:
            UsageError: if an address that needs a key has none, or the key has invalid characters.
        """
        return self._server.api_key()

    def check(self) -> dict[str, Any]:
        """Ask the server for its models; fail within seconds if there is no server, no such model, or a wrong key.

        A slow server is waited for, up to `timeout_s`.
        """
        listed = self._server.models(has_engine=bool(self.engine))
        if listed is None:
            return {"base_url": self.base_url}
        details = listed.get(self.model, {})
        self._served = {key: details[key] for key in _SERVED if key in details}
        return {"base_url": self.base_url, "models": [model for model in listed if model == self.model], **self._served}

    def request(self, prompt: RenderedPrompt) -> dict[str, Any]:
        """Return the address, the server's facts of the model and the body, without the mode of delivery."""
        extra = {"extra_body": self.extra_body or None, **({"query": self.query} if self.query else {})}
        markers = {"thinking_markers": self.thinking_markers} if self.thinking_markers else {}
        body = self._body(prompt._replace(images=()))
        # Keys of requests whose images have no places hold them whole, as in earlier versions.
        image_part = image_by_hash if prompt.image_places else image_by_url
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
            "messages": messages_in_parts(prompt, image_by_url),
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
        server = self._server

        async def call() -> Completion:
            if self.by_batch:  # the limit of concurrent calls is not that of a batch
                return await self._call(prompt)
            return await server.in_limit(lambda: self._call(prompt))

        try:
            return await ask_with_retries(call, self.max_tries, self._rng, self.model)
        except LLMError as error:
            if lost_connection(error):
                await asyncio.to_thread(self.check)  # stops the whole run if the server is gone
            raise

    async def _call(self, prompt: RenderedPrompt) -> Completion:
        """Make one call, and repeat it at once in another form if the server asks for one."""
        body, post_by = self._sent(prompt), self._post_by
        started = time.perf_counter()
        try:
            value = await (self._server.post("/chat/completions", body) if post_by is None else post_by(body))
            latency_s = time.perf_counter() - started if post_by is None else None
            if (error_part := refusal_in_answer(value)) is not None:
                raise RefusedError(200, {}, error_part)
            reply = ChatCompletion.model_validate(value)
        except RefusedError as error:
            refusal = error.read([prompt.query, *(message["content"] for message in prompt.messages)])
            if post_by is None and self._adapts_to(refusal.words, body):
                return await self._call(prompt)
            raise as_error(refusal, self._server.caller) from error
        except ValueError as error:
            raise self._server.unreadable(error) from error
        completion = self._completion(reply, latency_s)
        self._has_answered = True
        return completion

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
        return self._server.redacted(text)

    def _completion(self, reply: ChatCompletion, latency_s: float | None) -> Completion:
        choice = reply.choices[0]
        ended = read_ending(choice.finish_reason)
        if ended == PASSING:
            reason = self._redacted(f"the server ended the answer with {choice.finish_reason!r}")
            raise TransientError(reason, usage=read_usage(reply.usage))
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
            if (text := getattr(completion, name)) not in (None, STOP)
        }
        how = {"model": model, "latency_s": latency_s, "batch": self.by_batch}
        return completion.model_copy(update={**how, **redacted_texts})

    async def close(self) -> None:
        """Close the connections, and forget what was learnt on this event loop."""
        if self._endpoint is not None:
            await self._endpoint.close()


def _is_same_model(requested: str, answered: str) -> bool:
    """Return whether two names mean one model, in any case, with or without an owner and a version."""
    requested, answered = (name.lower().rpartition("/")[2] for name in (requested, answered))
    return requested in (answered, _VERSION.sub("", answered)) or _VERSION.sub("", requested) == answered
