"""Re-rank the hits of a run: a trained, pretrained or served ranker, or an LLM, orders what a retriever found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from qilin_rag.config.destinations import is_address
from qilin_rag.config.rerank_llm import LLM, is_llm
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded
from qilin_rag.core.registry import RANKERS, Component
from qilin_rag.core.third_party import third_party
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Price, Question, RerankPrice, RerankUse
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.llms.connection import is_local
from qilin_rag.models.pretrained import find_model, is_model
from qilin_rag.rankers.langchain import document_compressor, reranked_retriever
from qilin_rag.rankers.listwise import LLMReranker
from qilin_rag.rankers.pairs import PairRanker
from qilin_rag.rankers.served import ServedReranker
from qilin_rag.rankers.trained import MANIFEST, MODEL, TrainedRanker, load_ranker
from qilin_rag.retrievers.base import Retriever, min_max

if TYPE_CHECKING:
    from langchain_core.documents import BaseDocumentCompressor
    from langchain_core.retrievers import BaseRetriever


class Reranker(NamedTuple):
    """A ranker by its name, the number of hits it gets for each question, and its weight.

    Below weight 1 the order is by weight * ranker + (1 - weight) * retriever, the scores of each from 0 to 1 over the
    hits of the question: a linear interpolation, as in Birch (Akkalyoncu Yilmaz et al. 2019).
    """

    name: str
    ranker: TrainedRanker | PairRanker | LLMReranker
    depth: int
    weight: float = 1.0

    @classmethod
    def open(
        cls,
        source: str | Path,
        depth: int,
        weight: float = 1.0,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> Reranker:
        """Open a ranker.

        Args:
            source: A folder that `train` wrote, a pretrained reranker by folder or hub name, an address, or
                `llm:PRESET`.
            depth: The number of hits it gets for each question.
            weight: The weight of its score.
            settings: Its other settings, such as `max_length`; a trained ranker has none.

        Raises:
            UsageError: if there is no such ranker, a setting is wrong, or the ranker needs more of a request than a
                question has.
        """
        named = _named(source)
        if named is not None:
            ranker: PairRanker | LLMReranker = RANKERS.create(named, settings, at="rerank")
            return cls(ranker.title, ranker, depth, weight)
        if settings:
            name = next(iter(settings))
            raise UsageError(f"rerank.{name}: {source} is a trained ranker, which keeps its settings; leave it out")
        trained = load_ranker(Path(source))
        name = trained.called()
        if not trained.reads_text_only:
            raise UsageError(f"rerank {source}: {name} reads more than query and notes, and a question has no more")
        return cls(name, trained, depth, weight)

    @property
    def source(self) -> str | Path | None:
        """Return the folder, name or address of the ranker."""
        if isinstance(self.ranker, TrainedRanker):
            return self.ranker.checkpoint
        source: str = getattr(self.ranker, str(self.ranker.argument))
        return f"{LLM}{source}" if isinstance(self.ranker, LLMReranker) else source

    def settings(self) -> dict[str, Any]:
        """Return the settings of the ranker, as `open` takes them."""
        if isinstance(self.ranker, TrainedRanker):
            return {}
        if isinstance(self.ranker, LLMReranker):
            return self.ranker.recorded()
        return self.ranker.model_dump(mode="json", exclude={str(self.ranker.argument)})

    def changed(self) -> dict[str, Any]:
        """Return the settings of an LLM that differ from its name, which tell runs apart in tables."""
        return self.ranker.differences() if isinstance(self.ranker, LLMReranker) else {}

    @property
    def asks_server(self) -> bool:
        """Return whether its scores come from a server, which a dry run does not ask."""
        return isinstance(self.ranker, ServedReranker | LLMReranker)

    @property
    def asked_llm(self) -> Component | None:
        """Return the LLM that orders the notes; None if none does."""
        return self.ranker.asked_llm if isinstance(self.ranker, LLMReranker) else None

    @property
    def is_free(self) -> bool:
        """Return whether nobody charges: there is no server, or one on this machine without a price."""
        return not self.asks_server or (
            isinstance(self.ranker, ServedReranker) and self.price is None and is_local(self.ranker.url)
        )

    def check(self) -> None:
        """Ask the server or LLM that ranks whether it answers; a ranker without one is not opened.

        Raises:
            QilinError: if it can't be used.
        """
        if isinstance(self.ranker, ServedReranker | LLMReranker):
            with third_party(f"ranker {self.ranker.called()}"):
                self.ranker.check()

    def identity(self) -> dict[str, Any]:
        """Return what can change an order."""
        beside = {} if self.weight == 1 else {"weight": self.weight}
        return {"version": 2, "ranker": self.ranker.identity(), "depth": self.depth, **beside}

    def take_use(self) -> RerankUse | None:
        """Return what was asked of a server or an LLM since the last call; None if nothing was."""
        return None if isinstance(self.ranker, TrainedRanker) else self.ranker.take_use()

    @property
    def price(self) -> Price | RerankPrice | None:
        """Return what the provider of the server or LLM charges; None if it is not known."""
        return self.ranker.price if isinstance(self.ranker, ServedReranker | LLMReranker) else None

    def rerank(
        self,
        questions: Sequence[Question],
        rankings: Sequence[Sequence[Hit]],
        notes: NoteStore,
        use_cache: bool = True,
    ) -> list[list[Hit]]:
        """Order the hits of each question.

        Args:
            questions: The questions.
            rankings: The hits of each question, best first.
            notes: The corpus.
            use_cache: Whether an LLM's replies are taken from the response cache, and kept there.

        Returns:
            The same hits, best first by the ranker, with its scores or the weighted ones.
        """
        with third_party(f"ranker {self.ranker.called()}"):
            if isinstance(self.ranker, LLMReranker):
                found = [[hit.note_idx for hit in hits] for hits in rankings]
                queries = [question.query for question in questions]
                second = [_counted_down(order) for order in self.ranker.order(queries, found, notes, use_cache)]
            else:
                second = self._by_scores(self.ranker, requests_of(questions, rankings), notes)
        if self.weight == 1:
            return second
        return [
            self.beside(by_ranker, found, question.query)
            for question, by_ranker, found in zip(questions, second, rankings, strict=True)
        ]

    def as_langchain(
        self, retriever: Retriever, notes: NoteStore, k: int = 5, questions: Sequence[Question] = ()
    ) -> BaseRetriever:
        """Return a retriever and this second stage as one LangChain retriever; see `Retriever.as_langchain`.

        Args:
            retriever: It finds `depth` notes for each query.
            notes: The corpus to search.
            k: The most documents to return for a query, at most `depth`.
            questions: Queries equal to one of these are searched as that question.

        Raises:
            UsageError: LangChain is not installed, or `k` exceeds `depth`.
        """
        return reranked_retriever(self.rerank, self.depth, retriever, notes, k, questions)

    def as_compressor(self, k: int | None = None) -> BaseDocumentCompressor:
        """Return this second stage for documents of any LangChain retriever.

        The first `depth` documents are ordered, and their scores are in metadata["relevance_score"]; later ones follow
        as they are.

        Args:
            k: The most documents to return; None for all.

        Returns:
            A `BaseDocumentCompressor` that can be used from several threads.

        Raises:
            UsageError: LangChain is not installed.
        """
        return document_compressor(self.rerank, self.depth, k)

    def _by_scores(self, ranker: TrainedRanker | PairRanker, requests: Requests, notes: NoteStore) -> list[list[Hit]]:
        if not requests.n_candidates:
            return [[] for _ in requests.queries]
        scores = ranker.score(requests, Catalogue(notes))
        return [
            ranked(dict(zip(requests.note_idx[start:end].tolist(), scores[start:end].tolist(), strict=True)), query)
            for query, start, end in zip(requests.queries, requests.offsets[:-1], requests.offsets[1:], strict=True)
        ]

    def beside(self, second: Sequence[Hit], first: Sequence[Hit], query: str) -> list[Hit]:
        """Rank the hits of one question by the weighted scores of ranker and retriever."""
        of_first = {hit.note_idx: share for hit, share in zip(first, min_max(first), strict=True)}
        of_second = {hit.note_idx: share for hit, share in zip(second, min_max(second), strict=True)}
        return ranked(
            {note: self.weight * share + (1 - self.weight) * of_first[note] for note, share in of_second.items()},
            query,
        )


def _counted_down(order: Sequence[int]) -> list[Hit]:
    """Return n notes with the scores n, n-1, ..., 1."""
    return [
        Hit(note_idx=note_idx, score=float(len(order) - place), rank=place + 1) for place, note_idx in enumerate(order)
    ]


def _named(source: str | Path) -> str | None:
    """Return the ranker of a source by its name: llm, served, pretrained; None for a folder of a trained one.

    A name without a slash is a hub name only if its model is on this machine, since it may well be a mistyped folder.
    """
    if is_llm(source):
        return str(source)
    if is_address(str(source)):
        return f"served:{source}"
    folder = expanded(source)
    if folder.exists() or isinstance(source, Path):
        has_model = folder.is_dir() and (is_model(folder) or is_model(folder / MODEL))
        return f"pretrained:{source}" if has_model and not (folder / MANIFEST).exists() else None
    is_hub_name = "/" in source and not source.startswith((".", "/", "~")) and not folder.parent.exists()
    return f"pretrained:{source}" if is_hub_name or find_model(source) else None
