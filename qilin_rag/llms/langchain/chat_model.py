"""Any chat model of LangChain as the LLM of a run."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import random
import time
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveFloat, PositiveInt, PrivateAttr, ValidationError, model_validator

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.plugins import import_object, make_object, one_line, parameters, refuse_secrets, source_hash
from qilin_rag.core.types import Completion, Image, RenderedPrompt
from qilin_rag.llms import connection
from qilin_rag.llms.base import LLM, FatalLLMError, ThinkingMarkers
from qilin_rag.llms.events import must_stream
from qilin_rag.llms.image_parts import messages_in_parts
from qilin_rag.llms.image_tokens import Rule, rule_of
from qilin_rag.llms.langchain.replies import completion, ending_word, meaning
from qilin_rag.llms.refusals import ask_with_retries
from qilin_rag.llms.retry import TransientError

if TYPE_CHECKING:
    import httpx2
    from langchain_core.language_models import BaseChatModel


logger = logging.getLogger(__name__)
_COMMON = ("temperature", "max_tokens", "base_url")
_MAX_TOKENS_ELSEWHERE = ("max_output_tokens", "num_predict", "max_new_tokens")


class LangChain(LLM):
    """A LangChain chat model: `langchain:PROVIDER:MODEL`, or `langchain:package.module:factory`.

    `init_chat_model` creates a model by name; keys come from the environment. A factory is a BaseChatModel, or a class
    or function that creates one from `settings`.

    Args:
        spec (str): `PROVIDER:MODEL`, or `package.module:factory`.
        settings (dict): More arguments of the model's class, or those of the factory.
        temperature (float): The sampling temperature; null leaves it to the provider. A factory decides for itself,
            unless it is set here.
        max_tokens (int): The most tokens of an answer; null leaves it to the provider. A factory decides for itself,
            unless it is set here.
        base_url (str): The address of the server; null leaves it to the provider.
        context_length (int): The most tokens of prompt and answer together; null if it is not known.
        timeout_s (float): The longest time of one request, in seconds.
        max_tries (int): The most tries of one request.
        stream (bool): Whether to read answers as a stream, for models that can only be streamed. A model that says so
            is streamed automatically.
        thinking_markers (list of pairs): Texts around the model's thinking, such as `[[<cot>, </cot>]]`, in addition to
            the known ones.
        images (bool): Whether the model reads images; one that does not is not asked with images.
        image_tokens (str): How the model counts the tokens of an image: `qwen2-vl`, `qwen3-vl`, `openai-tiles`,
            `anthropic` or `gemini`; null goes by the model's name.
        price (Price): What the provider charges; null if it is not known.

    Raises:
        UsageError: from `check`, if the model can't be created.

    Example:
        >>> llm = LangChain(spec="ollama:qwen2.5:7b", context_length=8192)
        >>> llm.prompt_budget
        7168
    """

    version: ClassVar[int] = 2

    argument: ClassVar[str | None] = "spec"
    only_if_set: ClassVar[frozenset[str]] = frozenset({"image_tokens"})
    operational: ClassVar[frozenset[str]] = LLM.operational | {"base_url", "timeout_s", "max_tries", "stream", "images"}
    takes_images: ClassVar[bool] = True
    outward: ClassVar[frozenset[str]] = frozenset({"spec", "base_url", "settings"})

    spec: str
    settings: dict[str, Any] = {}
    temperature: float | None = 0.0
    max_tokens: PositiveInt | None = 1024
    base_url: str | None = None
    context_length: PositiveInt | None = None
    timeout_s: PositiveFloat = 180.0
    max_tries: PositiveInt = 10
    stream: bool = False
    thinking_markers: ThinkingMarkers = []
    images: bool = True
    image_tokens: Rule | None = None

    _made: BaseChatModel | None = PrivateAttr(default=None)
    _rng: random.Random = PrivateAttr(default_factory=random.Random)
    _http: httpx2.AsyncClient | None = PrivateAttr(default=None)
    _is_stream_only: bool = PrivateAttr(default=False)
    _has_answered: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, fields: Any) -> Any:
        return {**_sampling_of(fields.get("spec")), **fields} if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _fit_to_be_written_down(self) -> LangChain:
        refuse_secrets({**self.settings, "base_url": self.base_url}, f"llm langchain:{self.spec}")
        if doubles := [name for name in _COMMON if name in self.settings]:
            raise ValueError(f"settings.{doubles[0]} is llm.{doubles[0]}; set that")
        return self

    @classmethod
    def names_code(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether the settings name a factory, which is code; a model by name is data."""
        return _is_factory(settings.get("spec"))

    @property
    def prompt_budget(self) -> int | None:
        """Return the tokens of the context that the answer leaves, if its length is known."""
        if self.context_length is None:
            return None
        if (budget := self.context_length - (self.max_tokens or 0)) <= 0:
            raise UsageError(
                f"llm.max_tokens ({self.max_tokens}) leaves no room for a prompt in "
                f"llm.context_length ({self.context_length})"
            )
        return budget

    @property
    def answer_budget(self) -> int | None:
        """Return the requested limit; a provider's own limit is not known."""
        return self.max_tokens

    @property
    def sends_images(self) -> bool:
        """Return whether the model reads images, as far as it is known."""
        return self.images

    @property
    def image_rule(self) -> Rule | None:
        """Return how images are counted: as set, or by the model's name."""
        return self.image_tokens or rule_of(self.spec)

    def identity(self) -> dict[str, Any]:
        """Return the identity, which includes the file of a user's own factory."""
        if not _is_factory(self.spec):
            return super().identity()
        import_object(self.spec, self._name)
        return super().identity() | source_hash(self.spec.partition(":")[0])

    def changed(self, base: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return the fields that differ from `base`, or from the defaults of a model of this kind."""
        return super().changed({**_sampling_of(self.spec), **base})

    def check(self) -> dict[str, Any]:
        """Create the model, so that a wrong package, key or factory is found before the first question."""
        made = type(self._model())
        package = made.__module__.partition(".")[0].replace("_", "-")
        try:
            return {"class": f"{made.__module__}:{made.__qualname__}", "package": f"{package} {version(package)}"}
        except PackageNotFoundError:
            return {"class": f"{made.__module__}:{made.__qualname__}"}

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """Return one answer, with up to `max_tries` tries if repeating can help."""
        return await ask_with_retries(lambda: self._call(prompt), self.max_tries, self._rng, self.spec)

    async def close(self) -> None:
        """Release the model: its connections belong to the event loop that used it."""
        self._made = None
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _call(self, prompt: RenderedPrompt) -> Completion:
        model, streams = self._model(), self.stream or self._is_stream_only
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s):
                messages = messages_in_parts(prompt, _image_block)
                message = await (_streamed(model, messages) if streams else model.ainvoke(messages))
        except TimeoutError as error:
            raise TransientError(f"no answer within {self.timeout_s:g} s") from error
        except (QilinError, TransientError):
            raise
        except Exception as error:  # each provider has its own errors
            may_stream = not streams and (self._is_stream_only or not self._has_answered)
            if may_stream and must_stream(f"{error} {getattr(error, 'body', '')}"):
                self._say_stream_only()
                return await self._call(prompt)
            if isinstance(error, OSError):  # most clients don't say what they could not open
                connection.certificates()
            sent_texts = [prompt.query, *(message_sent["content"] for message_sent in prompt.messages)]
            raise meaning(error, self._name, sent_texts) from error
        self._has_answered = True
        return completion(message, self.spec, time.perf_counter() - started, self.thinking_markers, self.max_tokens)

    def _say_stream_only(self) -> None:
        if not self._is_stream_only:
            logger.warning("%s can only be streamed, so its answers are read as a stream (reported once)", self.spec)
        self._is_stream_only = True

    @property
    def _name(self) -> str:
        return f"llm langchain:{self.spec}"

    def _model(self) -> BaseChatModel:
        if self._made is None:
            require("langchain", "langchain", "langchain_core", what=self._name)
            self._made = self._from_factory() if _is_factory(self.spec) else self._by_name()
        return self._made

    def _common(self) -> dict[str, Any]:
        return {name: value for name in _COMMON if (value := getattr(self, name)) is not None}

    def _from_factory(self) -> BaseChatModel:
        from langchain_core.language_models import BaseChatModel

        return make_object(self.spec, self._name, BaseChatModel, {**self._common(), **self.settings})

    def _by_name(self) -> BaseChatModel:
        """Create the model twice: only an existing model shows which arguments its class takes."""
        arguments = {**self._common(), **self.settings}
        model_class = type(self._init(arguments))
        accepted = parameters(model_class)
        if "max_tokens" in arguments and "max_tokens" not in accepted:
            name = next((name for name in _MAX_TOKENS_ELSEWHERE if name in accepted), "max_tokens")
            arguments[name] = arguments.pop("max_tokens")
        if ignored := [name for name in _COMMON if name in arguments and name not in accepted]:
            raise UsageError(
                f"{self._name}: {model_class.__name__} takes no {ignored[0]}; "
                f"leave it out with --set llm.{ignored[0]}=null"
            )
        ours: dict[str, Any] = {"timeout": self.timeout_s, "max_retries": 0}
        if (
            self._address and "http_async_client" in accepted and not os.environ.get("OPENAI_PROXY")
        ):  # a class of OpenAI's
            ours["http_async_client"] = self._http = connection.open_async_http(self._address)
        return self._init({**{name: value for name, value in ours.items() if name in accepted}, **arguments})

    @property
    def _address(self) -> str:
        """Return the address of the model, if it is known."""
        if self.base_url:
            return self.base_url
        match self.spec.split(":")[0] if ":" in self.spec else "openai":
            case "openai":
                from_environment = os.environ.get("OPENAI_API_BASE") or os.environ.get("OPENAI_BASE_URL")
                return from_environment or "https://api.openai.com/v1"
            case "azure_openai":
                return str(self.settings.get("azure_endpoint") or os.environ.get("AZURE_OPENAI_ENDPOINT") or "")
        return ""

    def _init(self, arguments: Mapping[str, Any]) -> BaseChatModel:
        from langchain.chat_models import init_chat_model

        try:
            with connection.environment_for(self._address):
                return init_chat_model(self.spec, **arguments)
        except ImportError as error:
            raise UsageError(f"{self._name}: {error}") from error
        except Exception as error:
            if isinstance(error, OSError):  # most clients don't say what they could not open
                connection.certificates()
            reason = f"{self._name} can't be set up: {one_line(error)}"
            is_unknown = isinstance(error, ValueError) and not isinstance(error, ValidationError)
            raise (UsageError if is_unknown else FatalLLMError)(reason) from error


def _image_block(image: Image) -> dict[str, Any]:
    """Return LangChain's own block of an image, which it translates for each provider."""
    return {"type": "image", "base64": base64.b64encode(image.jpeg).decode(), "mime_type": "image/jpeg"}


async def _streamed(model: BaseChatModel, messages: Any) -> Any:
    """Join the chunks of a stream to one message."""
    speaks_openai = any(each.__module__.startswith("langchain_openai.") for each in type(model).__mro__)
    whole: Any = None
    try:
        async for chunk in model.astream(messages, **({"stream_usage": True} if speaks_openai else {})):
            whole = chunk if whole is None else whole + chunk
    except ValueError as error:
        if "No generation chunks" not in str(error):  # LangChain's words for an empty stream
            raise
    if whole is None or (speaks_openai and ending_word(whole.response_metadata or {}) is None):
        raise TransientError("the stream ended before the answer did")
    return whole


def _is_factory(spec: Any) -> bool:
    """Return whether this is `package.module:factory`, and not a model by name."""
    provider, colon, _ = str(spec).partition(":")
    return bool(colon) and provider not in _providers(f"llm langchain:{spec}")


def _providers(what: str) -> Collection[str]:
    """Return the providers of init_chat_model, from a private table of langchain (seen in 1.4)."""
    require("langchain", "langchain", "langchain_core", what=what)
    from langchain.chat_models import base

    providers: Collection[str] = base._BUILTIN_PROVIDERS
    return providers


def _sampling_of(spec: Any) -> dict[str, Any]:
    """Return no sampling for a factory, which decides for itself; else the defaults of the fields hold."""
    return {"temperature": None, "max_tokens": None} if _is_factory(spec) else {}
