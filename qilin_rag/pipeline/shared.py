"""Share between runs what they need only once: data, models, and rankings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from qilin_rag.config.run import RunConfig
from qilin_rag.core.registry import Component
from qilin_rag.core.types import Hit, Question, QuestionDefects, RerankUse
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.defects import count_defects
from qilin_rag.data.note_images import NoteImages
from qilin_rag.pipeline.answering import Retrieved, known_notes, search
from qilin_rag.pipeline.note_pictures import open_images, sends_images
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.retrievers import Retriever

logger = logging.getLogger(__name__)
T = TypeVar("T")
C = TypeVar("C", bound=Component)


class Shared:
    """Values that the first run makes and all later runs reuse; a single run has a `Shared` of its own."""

    def __init__(self) -> None:
        """Begin empty."""
        self._made: dict[Hashable, Any] = {}
        self._found: dict[Hashable, dict[str, tuple[int, list[Hit]]]] = {}
        self._reranked: dict[Hashable, dict[str, Retrieved]] = {}
        self._uses: dict[Hashable, RerankUse] = {}
        self._taken: set[Hashable] = set()

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
                "rerank": rerank,
                "llm": self.same(config.llm),
                "metrics": {name: self.same(scorer) for name, scorer in config.metrics.items()},
            }
        )

    def warn(self, message: str) -> None:
        """Log a warning once, for all runs that share it."""
        self.once(("warning", message), lambda: logger.warning(message))

    def retrieve(self, config: RunConfig, questions: Sequence[Question]) -> list[Retrieved]:
        """Return the hits of each question that the data has a note for, in the order of the run's last stage."""
        retriever: Retriever = self.same(config.retriever)
        reranker: Reranker | None = config.rerank
        dataset = self.dataset(config)
        k = config.top_k if reranker is None else reranker.depth
        hits = self.search(retriever, dataset, questions, k) if questions else []
        found = known_notes(hits, dataset.notes, config.missing_notes)
        if reranker is None:
            return found
        named = self._second_stage(config)
        known = self._reranked.setdefault(named, {})
        new = [(question, its) for question, its in zip(questions, found, strict=True) if question.id not in known]
        rankings = reranker.rerank(
            [question for question, _ in new], [its.hits for _, its in new], dataset.notes, config.cache
        )
        if (use := reranker.take_use()) is not None:
            self._uses[named] = self._uses[named].plus(use) if named in self._uses else use
        for (question, its), ranking in zip(new, rankings, strict=True):
            known[question.id] = Retrieved(ranking, its.n_missing)
        most = None if retriever.ignores_k else config.top_k
        return [Retrieved(known[question.id].hits[:most], known[question.id].n_missing) for question in questions]

    def take_rerank_use(self, config: RunConfig) -> RerankUse | None:
        """Return what the second stage of a run asked for; costs count for the first run that takes them."""
        named = self._second_stage(config) if config.rerank is not None else None
        if (use := self._uses.get(named)) is None:
            return None
        if named in self._taken:
            return use.again()
        self._taken.add(named)
        return use

    def _second_stage(self, config: RunConfig) -> Hashable:
        return (self.same(config.retriever), config.rerank, *_read_of(self.dataset(config)))

    def search(self, retriever: Retriever, dataset: Dataset, questions: Sequence[Question], k: int) -> list[list[Hit]]:
        """Return the hits of each question; search only for those that no earlier search has found.

        A retriever whose rankings are `nested` is not asked for 5 hits after it was asked for 10.
        """
        any_k = retriever.nested or retriever.ignores_k
        named = (retriever, *_read_of(dataset), None if any_k else k)
        found = self._found.setdefault(named, {})
        unknown = [
            question
            for question in questions
            if question.id not in found or (found[question.id][0] < k and not retriever.ignores_k)
        ]
        if unknown:
            hits = search(retriever, dataset.notes, unknown, k)
            found.update((question.id, (k, ranking)) for question, ranking in zip(unknown, hits, strict=True))
        rankings = [found[question.id][1] for question in questions]
        return rankings if retriever.ignores_k else [ranking[:k] for ranking in rankings]


def _read_of(dataset: Dataset) -> tuple[str, str]:
    """Return the hashes of all that a search reads: the data, and the texts of its notes as they are read."""
    return dataset.sha256, dataset.notes.sha256
