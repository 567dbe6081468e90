"""Re-rank the hits of a run: a trained, pretrained or served ranker orders what a retriever found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from qilin_rag.config.destinations import is_address
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded
from qilin_rag.core.registry import RANKERS
from qilin_rag.core.third_party import third_party
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.requests import requests_of
from qilin_rag.models.pretrained import find_model, is_model
from qilin_rag.rankers.pairs import PairRanker
from qilin_rag.rankers.served import ServedReranker
from qilin_rag.rankers.trained import MANIFEST, MODEL, TrainedRanker, load_ranker
from qilin_rag.retrievers.base import min_max


class Reranker(NamedTuple):
    """A ranker by its name, the number of hits it gets for each question, and its weight.

    Below weight 1 the order is by weight * ranker + (1 - weight) * retriever, the scores of each from 0 to 1 over the
    hits of the question: a linear interpolation, as in Birch (Akkalyoncu Yilmaz et al. 2019).
    """

    name: str
    ranker: TrainedRanker | PairRanker
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
            source: A folder that `train` wrote, a pretrained reranker by folder or hub name, or an address.
            depth: The number of hits it gets for each question.
            weight: The weight of its score.
            settings: Its other settings, such as `max_length`; a trained ranker has none.

        Raises:
            UsageError: if there is no such ranker, a setting is wrong, or the ranker needs more of a request than a
                question has.
        """
        kind = _kind_of(source)
        if kind is not None:
            ranker: PairRanker = RANKERS.create(f"{kind}:{source}", settings)
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
        return source

    def settings(self) -> dict[str, Any]:
        """Return the settings of the ranker, as `open` takes them."""
        if isinstance(self.ranker, TrainedRanker):
            return {}
        return self.ranker.model_dump(mode="json", exclude={str(self.ranker.argument)})

    @property
    def asks_server(self) -> bool:
        """Return whether its scores come from a server, which a dry run does not ask."""
        return isinstance(self.ranker, ServedReranker)

    def identity(self) -> dict[str, Any]:
        """Return what can change an order."""
        beside = {} if self.weight == 1 else {"weight": self.weight}
        return {"version": 2, "ranker": self.ranker.identity(), "depth": self.depth, **beside}

    def rerank(
        self, questions: Sequence[Question], rankings: Sequence[Sequence[Hit]], notes: NoteStore
    ) -> list[list[Hit]]:
        """Return the same hits, best first by the ranker, with its scores or the weighted ones."""
        requests = requests_of(questions, rankings)
        if not requests.n_candidates:
            return [[] for _ in questions]
        with third_party(f"ranker {self.ranker.called()}"):
            scores = self.ranker.score(requests, Catalogue(notes))
        second = [
            ranked(dict(zip(requests.note_idx[start:end].tolist(), scores[start:end].tolist(), strict=True)), query)
            for query, start, end in zip(requests.queries, requests.offsets[:-1], requests.offsets[1:], strict=True)
        ]
        if self.weight == 1:
            return second
        return [
            self.beside(by_ranker, found, question.query)
            for question, by_ranker, found in zip(questions, second, rankings, strict=True)
        ]

    def beside(self, second: Sequence[Hit], first: Sequence[Hit], query: str) -> list[Hit]:
        """Rank the hits of one question by the weighted scores of ranker and retriever."""
        of_first = {hit.note_idx: share for hit, share in zip(first, min_max(first), strict=True)}
        of_second = {hit.note_idx: share for hit, share in zip(second, min_max(second), strict=True)}
        return ranked(
            {note: self.weight * share + (1 - self.weight) * of_first[note] for note, share in of_second.items()},
            query,
        )


def _kind_of(source: str | Path) -> str | None:
    """Return the name of the ranker for a source: served, pretrained; None for a folder of a trained one.

    A name without a slash is a hub name only if its model is on this machine, since it may well be a mistyped folder.
    """
    if is_address(str(source)):
        return "served"
    folder = expanded(source)
    if folder.exists() or isinstance(source, Path):
        has_model = folder.is_dir() and (is_model(folder) or is_model(folder / MODEL))
        return "pretrained" if has_model and not (folder / MANIFEST).exists() else None
    if "/" in source and not source.startswith((".", "/", "~")) and not folder.parent.exists():
        return "pretrained"
    return "pretrained" if find_model(source) else None
