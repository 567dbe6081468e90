"""An LLM of our own without a server: its engine answers files of requests, so that it can be asked by batch only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms.base import LLM
from qilin_rag.llms.batch.run_batch import RunBatch
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.serving.server import engine_of


class Offline(LLM):
    """The client of an engine that answers files of requests."""

    client: OpenAICompatible

    _batches: RunBatch = PrivateAttr()

    @classmethod
    def by(cls, batches: RunBatch, client: OpenAICompatible) -> Self:
        """Return `client` with these batches."""
        offline = cls(client=client)
        offline._batches = batches
        return offline

    def with_client(self, client: OpenAICompatible) -> Self:
        """Return another client of the same engine, with other settings."""
        return type(self).by(self._batches, client)

    @property
    def batches(self) -> RunBatch:
        """Return the service that answers the requests."""
        return self._batches

    @property
    def prompt_budget(self) -> int | None:
        """Return the client's budget."""
        return self.client.prompt_budget

    def check(self) -> dict[str, Any]:
        """Return the facts of the engine."""
        return self._batches.facts()

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """Return the client's answer, which comes by batch."""
        return await self.client.generate(prompt)

    async def close(self) -> None:
        """Close the client."""
        await self.client.close()


@contextmanager
def offline(llm: LLM, label: str, log: Path) -> Iterator[Offline]:
    """Yield the LLM without a server; its engine runs while a batch is answered, and ends with the block.

    Raises:
        UsageError: if its settings name no engine, or one that answers no files.
    """
    engine = engine_of(llm, label)
    assert isinstance(llm, OpenAICompatible)
    batches = RunBatch(engine, llm.model, llm.context_length, log)
    try:
        yield Offline.by(batches, llm)
    finally:
        batches.stop()
