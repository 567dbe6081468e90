"""Rank by a reranker behind an address: vLLM, TEI, llama.cpp, or a provider such as Jina and Cohere."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import PositiveFloat, PositiveInt, PrivateAttr, field_validator

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.event_loops import for_each, run_async
from qilin_rag.core.plugins import refuse_secrets
from qilin_rag.core.types import RerankPrice, RerankUse, Usage
from qilin_rag.llms import connection
from qilin_rag.llms.base import ContextOverflowError, FatalLLMError, LLMError
from qilin_rag.llms.client import RefusedError
from qilin_rag.llms.endpoint import Endpoint, NoConnectionError, plain_address
from qilin_rag.llms.refusal_bodies import Refusal
from qilin_rag.llms.refusals import as_error
from qilin_rag.llms.retry import TransientError, with_retries
from qilin_rag.rankers.pairs import Keep, PairRanker
from qilin_rag.rankers.rerank_forms import (
    Billed,
    FormName,
    ReplyError,
    forms_of,
    read_billed,
    read_scores,
    request_body,
)
from qilin_rag.rankers.score_store import Pair, known_probe

logger = logging.getLogger(__name__)
_PROBE_QUERY = "手冲咖啡的水温"
_PROBE_TEXTS = ("手冲咖啡的水温在九十二度左右。", "The office is closed on public holidays.", "多肉夏天要少浇水。")
_PROBE_TOLERANCE = 0.01  # of a score; a model in bf16 differs by less between batches
_OTHER_FORM = (400, 404, 405, 415, 422)  # statuses of a server that knows the path and not the form


class ServedReranker(PairRanker):
    """A reranker behind an address that ends in `/rerank` or `/score`.

    The path names the form: `/v1/rerank` is Cohere's (Jina, vLLM, llama.cpp), `/rerank` TEI's if the server takes it,
    and else Cohere's, `/score` vLLM's. A reply must have one finite score for each text.

    Args:
        url (str): The address.
        model (str): The name of the model at the server; null is not sent, and the address then stands for the model.
        api_key_env (str): The environment variable that holds the key; without a key none is sent.
        extra_body (dict): More fields of the request, such as vLLM's `{truncate_prompt_tokens: -1}`.
        batch_size (int): The most notes in a request, all of one query.
        concurrency (int): The most requests at once.
        timeout_s (float): The longest time of one request, in seconds.
        max_tries (int): The most tries of one request.
        price (RerankPrice): What the provider charges, for a million tokens or for a thousand searches:
            `{currency: USD, per_1k_searches: 2, as_of: 2026-11}`.

    Raises:
        UsageError: if the address has another path, or a setting holds a key.

    Example:
        >>> ServedReranker(url="http://127.0.0.1:8000/v1/rerank", model="BAAI/bge-reranker-v2-m3").title
        'bge-reranker-v2-m3'
    """

    argument: ClassVar[str | None] = "url"
    operational: ClassVar[frozenset[str]] = frozenset(
        {"url", "api_key_env", "batch_size", "concurrency", "timeout_s", "max_tries", "price"}
    )
    outward: ClassVar[frozenset[str]] = frozenset({"url", "api_key_env"})

    url: str
    model: str | None = None
    api_key_env: str = "RERANK_API_KEY"
    extra_body: dict[str, Any] = {}
    batch_size: PositiveInt = 32
    concurrency: PositiveInt = 8
    timeout_s: PositiveFloat = 60.0
    max_tries: PositiveInt = 8
    price: RerankPrice | None = None

    _form: FormName | None = PrivateAttr(default=None)
    _number: int | None = PrivateAttr(default=None)
    _endpoint: Endpoint | None = PrivateAttr(default=None)
    _use: RerankUse | None = PrivateAttr(default=None)
    _rng: random.Random = PrivateAttr(default_factory=random.Random)

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        expected = "that ends in /rerank or /score, such as http://127.0.0.1:8000/v1/rerank"
        plain = plain_address(url, "rerank", expected, has_query=False)
        if not forms_of(plain):
            raise ValueError(f"expected an address {expected}")
        return plain

    @field_validator("extra_body")
    @classmethod
    def _plain_body(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        refuse_secrets(extra_body, "rerank.extra_body")
        return extra_body

    @property
    def _server(self) -> Endpoint:
        """Return the client of the server, which is made once."""
        if self._endpoint is None:
            self._endpoint = Endpoint(
                self.url,
                self.model,
                api_key_env=self.api_key_env,
                timeout_s=self.timeout_s,
                section="rerank",
                needs_key=False,
            )
        return self._endpoint

    @property
    def title(self) -> str:
        """Return the model's name, else the host."""
        return self.model.rpartition("/")[2] if self.model else str(urlsplit(self.url).netloc)

    def identity(self) -> dict[str, Any]:
        """Identify the model by its name, wherever it is served; without a name by its address."""
        return super().identity() | ({} if self.model else {"url": self.url})

    def check(self) -> str:
        """Ask for the scores of a few fixed texts."""
        self._probe()
        return f"{self.url} answers in the form of {self._form}"

    def store_identity(self) -> dict[str, Any]:
        """Return the identity, and which model the server has under its name: another one has other scores."""
        if self._number is None:
            probed = known_probe(self.identity(), self._probe(), _PROBE_TOLERANCE)
            if probed.is_other:
                logger.warning(
                    "%s: %s scores fixed texts otherwise than before, so it is another model; no earlier score is used",
                    *(self.url, self.model or "the server"),
                )
            self._number = probed.number
        return self.identity() | {"number": self._number}

    def score_pairs(self, pairs: Sequence[Pair], keep: Keep) -> None:
        """Ask for the notes of each query, many requests at once."""
        batches: list[list[int]] = []
        for _, places in itertools.groupby(range(len(pairs)), key=lambda place: pairs[place][0]):
            of_query = list(places)
            batches += [of_query[i : i + self.batch_size] for i in range(0, len(of_query), self.batch_size)]

        async def ask(places: Sequence[int]) -> None:
            texts = [pairs[place][1] for place in places]
            keep(places, await self._ask(pairs[places[0]][0], texts, self.max_tries))

        self._run(lambda: for_each(batches, ask, self.concurrency))

    def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work with the server's client, which is closed at the end."""

        async def run() -> None:
            try:
                await work()
            finally:
                await self._server.close()

        run_async(run)

    def _probe(self) -> list[float]:
        """Return the scores of the fixed texts, and learn the form of the server.

        Raises:
            QilinError: if no server answers, or none of the forms is taken.
        """
        scores: list[float] = []

        async def ask() -> None:
            forms = forms_of(self.url)
            for form in forms:
                self._form = form
                try:
                    scores[:] = await self._ask(_PROBE_QUERY, _PROBE_TEXTS, 2)
                    return
                except _RefusedError:
                    if form == forms[-1]:
                        raise

        self._run(ask)
        return scores

    async def _ask(self, query: str, texts: Sequence[str], max_tries: int) -> list[float]:
        """Return the scores of one request, repeated if that can help."""
        server = self._server
        try:
            return await with_retries(lambda: server.in_limit(lambda: self._call(query, texts)), max_tries, self._rng)
        except TransientError as error:
            raise QilinError(
                f"{self.url}: {_in_words(error)} ({max_tries} tries); the scores so far are kept: start the server "
                "again, and the same command resumes"
            ) from error
        except connection.MovedError as error:
            raise UsageError(f"{str(error).partition('; ')[0]}; if that is right, name that address") from error

    async def _call(self, query: str, texts: Sequence[str]) -> list[float]:
        body = request_body(self._form or forms_of(self.url)[0], self.model, query, texts) | self.extra_body
        try:
            reply = await self._server.post(self.url, body)
            self._count(read_billed(reply))
            return read_scores(reply, len(texts))
        except RefusedError as error:
            raise self._error(error.read([query, *texts])) from error
        except ReplyError as error:
            raise TransientError(f"unusable reply: {error}") from error

    def _count(self, billed: Billed) -> None:
        use = RerankUse(
            requests=1,
            usage=Usage(prompt_tokens=billed.tokens),
            uncounted=int(billed.tokens is None),
            searches=1 if billed.searches is None else billed.searches,
        )
        self._use = use if self._use is None else self._use.plus(use)

    def take_use(self) -> RerankUse | None:
        """Return what the server answered since the last call."""
        use, self._use = self._use, None
        return use

    def _error(self, refusal: Refusal) -> Exception:
        """Return the error to raise for a refusal, in words about a reranker."""
        error = as_error(refusal, self._server.caller)
        if isinstance(error, TransientError):
            return error
        if isinstance(error, ContextOverflowError):
            return QilinError(
                f"{self.url} takes no text of this length ({error}); have the server cut texts, such as vLLM by "
                "--set 'rerank.extra_body={truncate_prompt_tokens: -1}', or lower rerank.batch_size"
            )
        message = str(error) if isinstance(error, FatalLLMError) else f"{self.url}: {error}"
        is_of_form = refusal.status in _OTHER_FORM or isinstance(error, LLMError)
        return _RefusedError(message) if is_of_form else QilinError(message)


def _in_words(error: TransientError) -> str:
    return f"no server answers ({error.cause})" if isinstance(error, NoConnectionError) else str(error)


class _RefusedError(QilinError):
    """A refusal of the request as it is, such as one in the form of another server."""
