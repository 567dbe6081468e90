"""The interface of an LLM under test."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import StringConstraints

from qilin_rag.core.errors import QilinError
from qilin_rag.core.registry import Component
from qilin_rag.core.types import Completion, Price, RenderedPrompt, Usage
from qilin_rag.llms.image_tokens import Rule

_Marker = Annotated[str, StringConstraints(min_length=1)]
ThinkingMarkers = list[tuple[_Marker, _Marker]]


class LLMError(QilinError):
    """An error of one question, which gets no answer; the run continues and records it as failed.

    Args:
        reason: One line of text.
        retries: The number of repeats of the request before the error.
        discarded: The tokens of replies that could not be used, as far as they were counted.
    """

    retries: int = 0
    discarded: Usage = Usage()

    def __init__(self, reason: str = "", retries: int = 0, discarded: Usage | None = None) -> None:
        """Set the text, the number of retries, and what they took."""
        super().__init__(reason)
        self.retries = retries
        self.discarded = discarded or Usage()


class ContextOverflowError(LLMError):
    """The server refuses a prompt of this length; one with fewer notes may be accepted."""


class FilteredError(LLMError):
    """A content filter refuses this prompt or its answer: the question is `filtered`, and not asked again."""


class FatalLLMError(QilinError):
    """No question can get an answer (no server, key refused, no credit): the run stops and keeps its results."""


class LLM(Component):
    """A model that answers prompts; several calls of `generate` run concurrently on one event loop.

    To add one, write a subclass with the method `generate`, and name it `package.module:Class`.

    Args:
        price (Price): What the provider charges; null if it is not known.

    Attributes:
        takes_tokens (bool): Whether a prompt costs tokens.
        takes_images (bool): Whether the images of a prompt are sent.
        takes_batches (bool): Whether requests can be sent in batches (`llms.batch`).

    Example:
        >>> import asyncio
        >>> class Echo(LLM):
        ...     async def generate(self, prompt: RenderedPrompt) -> Completion:
        ...         return Completion(text=prompt.query, raw=prompt.query, model="echo", finish_reason="stop")
        >>> asyncio.run(Echo().generate(RenderedPrompt(messages=[], query="手冲水温", notes=[], notes_given=0))).text
        '手冲水温'
    """

    operational: ClassVar[frozenset[str]] = frozenset({"price"})
    takes_tokens: ClassVar[bool] = True
    takes_images: ClassVar[bool] = False
    takes_batches: ClassVar[bool] = False

    price: Price | None = None

    @property
    def prompt_budget(self) -> int | None:
        """Return the most tokens of a prompt; None if there is no limit."""
        return None

    @property
    def answer_budget(self) -> int | None:
        """Return the most tokens of an answer; None if it is not known."""
        return None

    @property
    def sends_images(self) -> bool:
        """Return whether the images of a prompt are sent; the default is `takes_images`."""
        return self.takes_images

    @property
    def image_rule(self) -> Rule | None:
        """Return the rule by which images are counted as tokens; None if it is not known."""
        return None

    @property
    def by_batch(self) -> bool:
        """Return whether prompts are collected for a batch API, at its price; a batch is found again after a crash."""
        return False

    def check(self) -> dict[str, Any]:
        """Check, before any other work, that calls can succeed.

        Returns:
            The facts that are known of the server.

        Raises:
            QilinError: if no call can succeed.
        """
        return {}

    def request(self, prompt: RenderedPrompt) -> dict[str, Any] | None:
        """Return everything that decides the answer (server, model, sampling, messages), the key of the response cache.

        Returns:
            None if answers must not be stored.
        """
        return None

    def read_again(self, kept: Completion) -> Completion:
        """Read the text of a stored answer of an older version by the rules of this one."""
        return kept

    @abstractmethod
    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """Answer one prompt.

        Args:
            prompt: The messages, and the question and notes that they hold.

        Returns:
            The answer. Its `finish_reason` is `stop`, `length` (cut off), `content_filter` or `refusal`.

        Raises:
            LLMError: if this prompt gets no answer.
            FatalLLMError: if no prompt can get an answer.
        """

    async def close(self) -> None:
        """Free connections; called once after the last call."""
        return
