"""The interface of an LLM under test."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import StringConstraints

from qilin_rag.core.errors import QilinError
from qilin_rag.core.registry import Component
from qilin_rag.core.types import Completion, Price, RenderedPrompt

_Marker = Annotated[str, StringConstraints(min_length=1)]
ThinkingMarkers = list[tuple[_Marker, _Marker]]


class LLMError(QilinError):
    """This question got no answer; the run goes on and records it as failed.

    `retries`: how often it was asked again before that.
    """

    retries: int = 0

    def __init__(self, reason: str = "", retries: int = 0) -> None:
        """`reason`: one line."""
        super().__init__(reason)
        self.retries = retries


class ContextOverflowError(LLMError):
    """The server takes no prompt of this length: with fewer notes it may."""


class FilteredError(LLMError):
    """A content filter holds this prompt or its answer back: the question is `filtered`, and not asked again."""


class FatalLLMError(QilinError):
    """No question can get an answer (server gone, key refused, account empty): the run stops, what is done is kept."""


class LLM(Component):
    """Answers prompts; several calls of `generate` run at once on one event loop.

    `price` null: unknown. `takes_tokens`: a prompt costs tokens at all. `takes_images`: those of a prompt are sent.
    """

    operational: ClassVar[frozenset[str]] = frozenset({"price"})
    takes_tokens: ClassVar[bool] = True
    takes_images: ClassVar[bool] = False

    price: Price | None = None

    @property
    def prompt_budget(self) -> int | None:
        """Tokens a prompt may have, None where there is no limit."""
        return None

    @property
    def answer_budget(self) -> int | None:
        """Tokens an answer may have, None where that is not known."""
        return None

    def check(self) -> dict[str, Any]:
        """Before anything else is done: raise a QilinError if no call can succeed; else what is known of the server."""
        return {}

    def request(self, prompt: RenderedPrompt) -> dict[str, Any] | None:
        """All that decides the answer (server, model, sampling, messages), for the response cache; None: not kept."""
        return None

    def read_again(self, kept: Completion) -> Completion:
        """Read the text of an answer that an older version kept by the rules of this one."""
        return kept

    @abstractmethod
    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """Answer one prompt. `finish_reason` is `stop`, `length` (cut off), `content_filter` or `refusal`.

        LLMError for this prompt alone, FatalLLMError where going on makes no sense.
        """

    async def close(self) -> None:
        """Free connections; called once after the last call."""
        return
