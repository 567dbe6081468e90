"""How well the notes were found: recall, nDCG and reciprocal rank at k against the reference notes, by ir_measures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import PositiveInt, PrivateAttr

from qilin_rag.core.types import Hit, Question, Sample, Score
from qilin_rag.scorers.base import Scorer

_USUAL_K = 5
_RELEVANCE = "rel:reference notes"


class Retrieval(Scorer):
    """recall@k, ndcg@k and mrr@k of the hits; a reference note is relevant (1), any other is not.

    The figures are of the hits that were retrieved, whether or not the prompt had room for their notes. `k` is by
    default the number of notes that a run asks for (`top_k`; 5 where there is no run), so that no figure is named @5
    that is of two notes. A question is unscored if it has no reference notes, if the run asks for fewer than `k` notes,
    or if fewer than `k` hits are left because the data lacks the notes of others. A shorter ranking for any other
    reason (a small corpus, a retriever that finds no more) is whole, and an empty one scores 0.

    The evaluator gets scores rewritten from our ranks, so that its own order of ties can't change a figure.

    Example:
        >>> import qilin_rag as qr
        >>> run = qr.run(retriever=qr.BM25(), metrics=[qr.Retrieval(k=3)], limit=20)
        >>> list(run.metrics)
        ['recall@3', 'ndcg@3', 'mrr@3']
    """

    version: ClassVar[int] = 2
    k: PositiveInt | None = None
    _most_hits: int | None = PrivateAttr(default=None)

    def for_run(self, top_k: int, ignores_k: bool) -> Self:
        """Return the scorer with the run's `top_k` as its `k` where none was set, and as the most that can be judged.

        A retriever that ignores k gives all it has, so any `k` is right for it.
        """
        chosen = self.model_copy(update={"k": self.k or top_k})
        chosen._most_hits = None if ignores_k else top_k
        return chosen

    @property
    def depth(self) -> int:
        """The rank down to which hits are judged."""
        return self.k or _USUAL_K

    def _measures(self) -> dict[str, Any]:
        import ir_measures

        measures = {
            "recall": ir_measures.R @ self.depth,
            "ndcg": ir_measures.nDCG @ self.depth,
            "mrr": ir_measures.RR @ self.depth,
        }
        return {f"{name}@{self.depth}": measure for name, measure in measures.items()}

    def signatures(self) -> dict[str, str]:
        """The measure as ir_measures writes it, relevance, whose hits, and how ties and empty rankings are treated."""
        return {
            metric: f"{measure!r}|ir_measures|{_RELEVANCE}|of:hits retrieved|ties:by rank|empty:0|v{self.version}"
            for metric, measure in self._measures().items()
        }

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Each measure of each sample's hits, whatever became of the answer."""
        return self.score_hits(
            [sample.hits if sample.has_known_hits else None for sample in samples],
            questions,
            [sample.notes_missing for sample in samples],
        )

    def score_hits(
        self,
        rankings: Sequence[Sequence[Hit] | None],
        questions: Sequence[Question],
        n_missing: Sequence[int] | None = None,
    ) -> list[Score]:
        """Each measure of each question's ranking (None: not known); `n_missing`: how many hits were left out of it."""
        import ir_measures

        measures = self._measures()
        names = {measure: metric for metric, measure in measures.items()}
        lacking = n_missing or [0] * len(questions)
        reasons = [self._why_unscored(*each) for each in zip(questions, rankings, lacking, strict=True)]
        judged = [row for row, reason in enumerate(reasons) if reason is None]
        qrels = [
            ir_measures.Qrel(str(row), str(note_idx), 1)
            for row in judged
            for note_idx in questions[row].reference_notes
        ]
        run = [
            ir_measures.ScoredDoc(str(row), str(hit.note_idx), float(-hit.rank))
            for row in judged
            for hit in rankings[row] or ()
        ]
        values = {(row, metric): 0.0 for row in judged for metric in measures}
        if run:
            for found in ir_measures.iter_calc(list(measures.values()), qrels, run):
                values[int(found.query_id), names[found.measure]] = float(found.value)
        return [
            Score(question_id=question.id, metric=metric, value=values.get((row, metric)), reason=reasons[row])
            for row, question in enumerate(questions)
            for metric in measures
        ]

    def _why_unscored(self, question: Question, hits: Sequence[Hit] | None, n_missing: int) -> str | None:
        if hits is None:
            return "not known which notes were found"
        if not question.reference_notes:
            return "no reference notes"
        if self._most_hits is not None and self._most_hits < self.depth:
            return f"the run asks for {self._most_hits} notes a question, not {self.depth}"
        if n_missing and len(hits) < self.depth:
            return f"fewer than {self.depth} hits are in the data"
        return None


def is_about_hits(signature: str) -> bool:
    """Whether a figure is of the retrieved notes and not of the answer; its signature then says `rel:`."""
    return "|rel:" in signature


def is_outdated(signature: str) -> bool:
    """Whether version 1 made a figure, which was named @k also where a run asked for fewer than k notes."""
    return signature.endswith(f"|{_RELEVANCE}|ties:by rank|empty:0|v1")


def cutoff(metric: str) -> int | None:
    """The k of a metric's name (`recall@5`); None where it has none."""
    found = re.search(r"@(\d+)$", metric)
    return int(found[1]) if found else None
