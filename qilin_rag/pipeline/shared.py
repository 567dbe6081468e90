"""Share between runs what they need only once: data, models, and rankings."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from qilin_rag.config.run import RunConfig
from qilin_rag.core.registry import Component
from qilin_rag.core.types import Hit, QueryReply, Question, QuestionDefects, RerankUse, Wording
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.defects import count_defects
from qilin_rag.data.note_images import NoteImages
from qilin_rag.pipeline.answering import known_notes, search
from qilin_rag.pipeline.jobs import Retrieved
from qilin_rag.pipeline.note_pictures import open_images, sends_images
from qilin_rag.retrievers import Retriever
from qilin_rag.retrievers.fusion import fuse_by_rank
from qilin_rag.retrievers.query_stage import FUSED_DEPTH

if TYPE_CHECKING:
    from qilin_rag.rankers.rerank import Reranker

logger = logging.getLogger(__name__)
NO_TEXTS: Mapping[str, Sequence[str]] = MappingProxyType({})
T = TypeVar("T")
C = TypeVar("C", bound=Component)


class Shared:
    """Values that the first run makes and all later runs reuse; a single run has a `Shared` of its own."""

    def __init__(self) -> None:
        """Begin empty. `replies` are those of query stages, by key, for runs that ask the same."""
        self._made: dict[Hashable, Any] = {}
        self._found: dict[Hashable, dict[Hashable, tuple[int, list[Hit]]]] = {}
        self._reranked: dict[Hashable, dict[Hashable, Retrieved]] = {}
        self._uses: dict[Hashable, list[tuple[frozenset[Hashable], RerankUse]]] = {}
        self._drawn: dict[Hashable, set[Hashable]] = {}
        self.replies: dict[str, QueryReply] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned for this key the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def dataset(self, config: RunConfig) -> Dataset:
        """Load the data of a run."""
        selection = (config.data, config.answers, config.references, config.note_fields)
        return self.once(("data", selection), lambda: load_dataset(*selection[:3], note_fields=config.note_fields))

    def images(self, config: RunConfig) -> NoteImages | None:
        """Open the images of a run's notes; None if it sends none."""
        key = ("images", config.data, config.image_size) if sends_images(config) else ("no images",)
        return self.once(key, lambda: open_images(config, self.dataset(config)))

    def count_defects(self, config: RunConfig, questions: Sequence[Question]) -> QuestionDefects:
        """Count the defects of a run's questions, and log them before anything is spent.

        Repeated questions are not a defect of the data, so they alone are no warning.
        """
        dataset = self.dataset(config)
        n_empty = len(dataset.questions) - len(dataset.askable)
        ids = tuple(question.id for question in questions)
        key = ("defects", dataset.sha256, ids)
        found = self.once(key, lambda: count_defects(questions, dataset.notes, n_empty))
        if said := str(found):
            is_defect = found != QuestionDefects(repeated_questions=found.repeated_questions)
            level = logging.WARNING if is_defect else logging.INFO
            message = f"{said}; to see each: qilin-rag data validate {config.data}"
            self.once(("said", message), lambda: logger.log(level, message))
        return found

    def same(self, component: C) -> C:
        """Return the first component that was equal to this one, so that equal components open their models once."""
        return self.once(("component", component), lambda: component)

    def joined(self, config: RunConfig) -> RunConfig:
        """Return the configuration with the components of earlier runs in place of equal ones."""
        rerank = config.rerank
        if rerank is not None:
            rerank = rerank._replace(ranker=self.same(rerank.ranker))
        return config.model_copy(
            update={
                "retriever": self.same(config.retriever),
                "query": config.query and self.same(config.query),
                "rerank": rerank,
                "llm": self.same(config.llm),
                "metrics": {name: self.same(scorer) for name, scorer in config.metrics.items()},
            }
        )

    def warn(self, message: str) -> None:
        """Log a warning once, for all runs that share it."""
        self.once(("warning", message), lambda: logger.warning(message))

    def prepare_search(self, config: RunConfig, questions: Sequence[Question]) -> None:
        """Search for the questions themselves before a query stage, so that index and models are opened by then.

        The server of a second stage is asked, too, before an LLM is paid.
        """
        if questions:
            retriever: Retriever = self.same(config.retriever)
            self.search(retriever, self.dataset(config), questions, _fused_depth(config))
            reranker: Reranker | None = config.rerank
            if reranker is not None:
                self.once(("second stage", reranker.ranker), reranker.check)

    def retrieve(
        self, config: RunConfig, questions: Sequence[Question], texts: Mapping[str, Sequence[str]] = NO_TEXTS
    ) -> list[Retrieved]:
        """Return the hits of each question that the data has a note for, in the order of the run's last stage.

        Args:
            config: The run.
            questions: The questions to search for.
            texts: What the query stage wrote for each question, by id; a question without texts is searched alone.
        """
        retriever: Retriever = self.same(config.retriever)
        reranker: Reranker | None = config.rerank
        dataset = self.dataset(config)
        k = _n_hits(config)
        if config.query is None or not questions:
            hits = self.search(retriever, dataset, questions, k) if questions else []
        else:
            hits = self._search_texts(config, retriever, dataset, questions, texts)
        found = known_notes(hits, dataset.notes, config.missing_notes)
        if reranker is None:
            return found
        named = self._second_stage(config)
        known = self._reranked.setdefault(named, {})
        keys = [(question.id, *texts.get(question.id, ())) for question in questions]
        new = [each for each in zip(keys, questions, found, strict=True) if each[0] not in known]
        self._drawn.setdefault(named, set()).update(keys)
        try:
            rankings = reranker.rerank(
                [question for _, question, _ in new], [its.hits for *_, its in new], dataset.notes, config.cache
            )
        finally:  # an error does not make its earlier requests free
            if (use := reranker.take_use()) is not None:
                self._uses.setdefault(named, []).append((frozenset(key for key, *_ in new), use))
        for (key, _, its), ranking in zip(new, rankings, strict=True):
            known[key] = Retrieved(ranking, its.n_missing)
        most = None if retriever.ignores_k else config.top_k
        return [Retrieved(known[key].hits[:most], known[key].n_missing) for key in keys]

    def retrieve_unkept(self, config: RunConfig, questions: Sequence[Question]) -> list[Retrieved]:
        """Return the hits as `retrieve` does for a run without further stages, and keep them for no other run."""
        dataset = self.dataset(config)
        hits = search(self.same(config.retriever), dataset.notes, questions, _n_hits(config)) if questions else []
        return known_notes(hits, dataset.notes, config.missing_notes)

    def _search_texts(
        self,
        config: RunConfig,
        retriever: Retriever,
        dataset: Dataset,
        questions: Sequence[Question],
        texts: Mapping[str, Sequence[str]],
    ) -> list[list[Hit]]:
        """Search for questions and the texts that were written for them, and fuse the rankings of each question."""
        wordings = [config.query.wordings(question, texts.get(question.id, ())) for question in questions]
        searched = [
            [*([question] if config.query.with_question or not of_question else []), *of_question]
            for question, of_question in zip(questions, wordings, strict=True)
        ]
        depth = _fused_depth(config)
        hits = iter(self.search(retriever, dataset, [each for of_question in searched for each in of_question], depth))
        return [
            fuse_by_rank([next(hits) for _ in of_question], question.query, _n_hits(config))
            for question, of_question in zip(questions, searched, strict=True)
        ]

    def take_rerank_use(self, config: RunConfig) -> RerankUse | None:
        """Return what the second stage asked for the rankings that a run took since the last call; None for nothing.

        The cost of a ranking counts once, for the run that takes it first.
        """
        if config.rerank is None:
            return None
        named = self._second_stage(config)
        drawn = self._drawn.pop(named, set())
        uses = self._uses.get(named, [])
        taken = [use for keys, use in uses if not keys.isdisjoint(drawn)]
        self._uses[named] = [(keys, use if keys.isdisjoint(drawn) else use.again()) for keys, use in uses]
        return functools.reduce(RerankUse.plus, taken) if taken else None

    def _second_stage(self, config: RunConfig) -> Hashable:
        return (self.same(config.retriever), config.query, config.rerank, *_read_of(self.dataset(config)))

    def search(self, retriever: Retriever, dataset: Dataset, questions: Sequence[Question], k: int) -> list[list[Hit]]:
        """Return the hits of each question; search only for those that no earlier search has found.

        A retriever whose rankings are `nested` is not asked for 5 hits after it was asked for 10.
        """
        any_k = retriever.nested or retriever.ignores_k
        named = (retriever, *_read_of(dataset), None if any_k else k)
        found = self._found.setdefault(named, {})
        keys = [_key(question) for question in questions]
        unknown = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if key not in found or (found[key][0] < k and not retriever.ignores_k)
        }
        if unknown:
            hits = search(retriever, dataset.notes, list(unknown.values()), k)
            found.update((key, (k, ranking)) for key, ranking in zip(unknown, hits, strict=True))
        rankings = [found[key][1] for key in keys]
        return rankings if retriever.ignores_k else [ranking[:k] for ranking in rankings]


def _key(question: Question) -> Hashable:
    """Return what tells questions, and texts that are searched for one, apart."""
    return (question.id, question.query, question.is_passage) if isinstance(question, Wording) else question.id


def _n_hits(config: RunConfig) -> int:
    """Return the number of hits that a run needs of each question, for the prompt or for its second stage."""
    return config.top_k if config.rerank is None else config.rerank.depth


def _fused_depth(config: RunConfig) -> int:
    """Return the number of hits of each ranking that are fused."""
    depth = max(_n_hits(config), FUSED_DEPTH)
    most: int | None = config.retriever.most_hits
    return depth if most is None else max(_n_hits(config), min(depth, most))


def _read_of(dataset: Dataset) -> tuple[str, str]:
    """Return the hashes of all that a search reads: the data, and the texts of its notes as they are read."""
    return dataset.sha256, dataset.notes.sha256
