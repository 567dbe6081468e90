"""Client of servers that make vectors: OpenAI's `/v1/embeddings` (vLLM, llama.cpp, Ollama, APIs), TEI's `/embed`.

A reply is checked before any of it counts: one vector for each text, in the order of the texts whatever the order of
the reply, of one dimension, finite and not zero. A batch that a server refuses is split, so that one text costs no
other its vector; a text that is too long alone is cut until the server takes it, always at the same place. A batch that
is not answered in time is split too, and fewer are asked for at once, so that a slow server makes progress.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.event_loops import for_each, run_async
from qilin_rag.core.text import fewest_tokens
from qilin_rag.llms.base import ContextOverflowError, FatalLLMError, LLMError
from qilin_rag.llms.client import RefusedError
from qilin_rag.llms.endpoint import Endpoint, lost_connection
from qilin_rag.llms.refusals import as_error
from qilin_rag.llms.replies import read_usage
from qilin_rag.llms.retry import TransientError, with_retries

Vectors = npt.NDArray[np.float32]
TEI = "/embed"
_KEPT = 0.75  # the part of a text that is too long which is tried next
_MOST_CUTS = 40  # leaves one character of 100,000
_NO_EMBEDDINGS = 501


class Embedded(NamedTuple):
    """The vectors of some texts.

    Attributes:
        vectors: Shape (n_texts, dimension), as the server made them.
        tokens: The tokens that the server counted; None if it does not count.
        cut: The number of texts that were cut because they were too long for the server.
        short: The number of texts in batches of which the server read only a part, by its count of tokens.
    """

    vectors: Vectors
    tokens: int | None
    cut: int = 0
    short: int = 0


class EmbeddingServer:
    """A model behind an address that makes vectors, asked in batches on one event loop."""

    def __init__(
        self, endpoint: Endpoint, *, concurrency: int, max_tries: int, fields: Mapping[str, Any], prefix: str
    ) -> None:
        """Set how the server is asked.

        Args:
            endpoint: The server. An address that ends in `/embed` is asked in TEI's own form.
            concurrency: The most requests at a time.
            max_tries: The most tries of one request.
            fields: More fields of each request.
            prefix: The beginning of each text, which is not cut.
        """
        self._endpoint = endpoint
        self._concurrency = concurrency
        self._max_tries = max_tries
        self._fields = fields
        self._prefix = prefix
        self._rng = random.Random()

    def embed(
        self, batches: Sequence[tuple[Sequence[str], Sequence[str]]], keep: Callable[[int, Embedded], None]
    ) -> None:
        """Embed batches, and hand over each as soon as it is whole.

        Args:
            batches: The texts of each batch, and their names for errors.
            keep: Called with the number of a batch and its vectors, in any order, on one thread.

        Raises:
            UsageError: if a text gets no vector, or none that can be used.
            FatalLLMError: if the server answers no request.
        """
        run_async(lambda: self._embed_all(batches, keep))

    async def _embed_all(
        self, batches: Sequence[tuple[Sequence[str], Sequence[str]]], keep: Callable[[int, Embedded], None]
    ) -> None:
        async def embed(job: tuple[int, tuple[Sequence[str], Sequence[str]]]) -> None:
            number, (texts, names) = job
            keep(number, await self._batch(list(texts), list(names)))

        try:
            await for_each(enumerate(batches), embed, self._concurrency)
        finally:
            await self._endpoint.close()

    async def _batch(self, texts: list[str], names: list[str]) -> Embedded:
        """Embed one batch; split it if the server refuses it or is late, down to the text that is the reason."""
        try:
            return await self._ask(texts, names)
        except LLMError as error:
            if len(texts) == 1:
                if isinstance(error, ContextOverflowError):
                    return await self._cut(texts[0], names[0], error)
                raise UsageError(f"{self._name} makes no vector of {names[0]}: {error}") from error
        middle = len(texts) // 2
        first = await self._batch(texts[:middle], names[:middle])
        second = await self._batch(texts[middle:], names[middle:])
        check_dimension(second.vectors, first.vectors.shape[1], self._name, names[middle:])
        tokens = None if first.tokens is None or second.tokens is None else first.tokens + second.tokens
        vectors = np.concatenate([first.vectors, second.vectors])
        return Embedded(vectors, tokens, first.cut + second.cut, first.short + second.short)

    async def _cut(self, text: str, name: str, error: LLMError) -> Embedded:
        """Embed the longest beginning of a text that the server takes, among a few lengths."""
        rest = text.removeprefix(self._prefix)
        prefix = text[: len(text) - len(rest)]
        for _ in range(_MOST_CUTS):
            rest = rest[: int(len(rest) * _KEPT)]
            if not rest.strip():
                break
            try:
                return (await self._ask([prefix + rest], [name]))._replace(cut=1)
            except ContextOverflowError:
                continue
            except LLMError as other:
                raise UsageError(f"{self._name} makes no vector of {name}: {other}") from other
        raise UsageError(f"{self._name} finds {name} too long, however short it is: {error}") from error

    async def _ask(self, texts: list[str], names: list[str]) -> Embedded:
        """Make one request, with up to `max_tries` tries; one of several texts is not repeated if it was late."""

        async def one_try() -> Embedded:
            try:
                return await self._endpoint.in_limit(lambda: self._call(texts, names))
            except TransientError as error:
                if _is_late(error) and len(texts) > 1:
                    raise _LateError(str(error)) from error
                raise

        try:
            return await with_retries(one_try, self._max_tries, self._rng)
        except TransientError as error:
            failed = FatalLLMError(f"{self._name}: {error} ({self._max_tries} tries); the same command resumes")
            failed.__cause__ = error
            if lost_connection(failed):
                await asyncio.to_thread(self._endpoint.models)  # says more if the server is gone
            raise failed from error

    async def _call(self, texts: list[str], names: list[str]) -> Embedded:
        is_tei = self._endpoint.base_url.endswith(TEI)
        body = {"inputs": texts, "normalize": False, "truncate": False} if is_tei else self._openai_body(texts)
        try:
            path = self._endpoint.base_url if is_tei else "/embeddings"
            value = await self._endpoint.post(path, {**body, **self._fields})
            items = _items(value)
            if items is None:
                raise RefusedError(200, {}, value)
        except RefusedError as error:
            refusal = error.read(texts)
            if refusal.status == _NO_EMBEDDINGS:
                raise FatalLLMError(f"{self._name} makes no vectors: {refusal.words}") from error
            raise as_error(refusal, self._endpoint.caller) from error
        except TransientError as error:
            error.is_overload = error.is_overload or _is_late(error)
            raise
        try:
            vectors = _vectors(items, len(texts))
        except ValueError as error:
            raise self._endpoint.unreadable(error) from error
        check_vectors(vectors, self._name, names)
        tokens = read_usage(value.get("usage")).prompt_tokens if isinstance(value, dict) else None
        is_short = bool(tokens) and (tokens or 0) < sum(map(fewest_tokens, texts))
        return Embedded(vectors, tokens or None, short=len(texts) if is_short else 0)

    def _openai_body(self, texts: list[str]) -> dict[str, Any]:
        return {"model": self._endpoint.model, "input": texts, "encoding_format": "float"}

    @property
    def _name(self) -> str:
        return f"model {self._endpoint.model!r} at {self._endpoint.base_url}"


class _LateError(LLMError):
    """A batch had no answer in time; its halves may have one."""


def _is_late(error: TransientError) -> bool:
    """Return whether there was no answer in time."""
    return isinstance(error.__cause__, TimeoutError)


def check_vectors(vectors: Vectors, name: str, names: Sequence[str]) -> None:
    """Check that vectors are finite and not zero.

    Args:
        vectors: Shape (n_texts, dimension).
        name: The model, for errors.
        names: The names of the texts, for errors.

    Raises:
        UsageError: if one is not; it names the first such text.
    """
    is_finite = np.isfinite(vectors).all(axis=1)
    for is_bad, what in ((~is_finite, "is not finite"), (is_finite & ~vectors.any(axis=1), "is zero")):
        if is_bad.any():
            raise UsageError(
                f"{name} makes a vector that {what} ({names[int(np.flatnonzero(is_bad)[0])]}); "
                "no vector of this batch is kept; see the log of the server"
            )


def check_dimension(vectors: Vectors, dimension: int, name: str, names: Sequence[str]) -> None:
    """Check that vectors have a dimension.

    Raises:
        UsageError: if they have another one.
    """
    if vectors.shape[1] != dimension:
        raise UsageError(
            f"{name} makes vectors of {vectors.shape[1]} dimensions ({names[0]}), and made others of {dimension}; "
            "no vector of this batch is kept; is it one model that answers?"
        )


def _items(value: Any) -> list[Any] | None:
    """Return the part of a reply that holds vectors; None if it is not an answer."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or value.get("error"):
        return None
    found = value.get("data", value.get("embeddings"))
    return found if isinstance(found, list) else None


def _vectors(items: list[Any], n_texts: int) -> Vectors:
    """Return the vectors in the order of the texts.

    Raises:
        ValueError: if there are not as many vectors as texts, or they can't be read.
    """
    if len(items) != n_texts:
        raise ValueError(f"{len(items)} vectors for {n_texts} texts")
    places = [item.get("index") if isinstance(item, Mapping) else None for item in items]
    if any(place is not None for place in places):
        if sorted(place for place in places if type(place) is int) != list(range(n_texts)):
            raise ValueError(f"the vectors are numbered {str(places)[:60]}, not 0 to {n_texts - 1}")
        items = [item for _, item in sorted(zip(places, items, strict=True), key=lambda pair: int(str(pair[0])))]
    rows = [_row(item.get("embedding") if isinstance(item, Mapping) else item) for item in items]
    dimensions = {len(row) for row in rows}
    if len(dimensions) != 1 or 0 in dimensions:
        raise ValueError(f"vectors of {', '.join(map(str, sorted(dimensions)))} dimensions in one reply")
    return np.stack(rows)


def _row(embedding: Any) -> npt.NDArray[np.float32]:
    """Return one vector, of numbers (null: not a number) or in base64 of 32-bit floats."""
    if isinstance(embedding, str):
        try:
            return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"a vector that is neither numbers nor base64 of 32-bit floats: {error}") from error
    if not isinstance(embedding, list) or not all(type(each) in (int, float, type(None)) for each in embedding):
        raise ValueError("a vector that is not a list of numbers")
    try:
        with np.errstate(over="ignore"):
            return np.array([np.nan if each is None else each for each in embedding], np.float64).astype(np.float32)
    except OverflowError as error:  # an integer of JSON has any length
        raise ValueError(f"a vector with a number that is too large: {error}") from error
