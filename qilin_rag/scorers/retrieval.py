"""Score the retrieved notes: recall, nDCG and reciprocal rank at k against the reference notes, by ir_measures."""

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

    The figures are of the retrieved hits, whether or not the prompt had room for their notes. An empty ranking scores
    0. A question is unscored in three cases: it has no reference notes; the run asks for fewer than `k` notes; or fewer
    than `k` hits are left, because the data lacks the notes of others. A ranking that is short for another reason, such
    as a small corpus, counts.

    The evaluator gets scores made from our ranks, so that its own order of ties can't change a figure.

    Example:
        >>> import qilin_rag as qr
        >>> run = qr.run(retriever=qr.BM25(), metrics=[qr.Retrieval(k=3)], limit=20)
        >>> list(run.metrics)
        ['recall@3', 'ndcg@3', 'mrr@3']
    """

    version: ClassVar[int] = 2
    one_by_one: ClassVar[bool] = True
    k: PositiveInt | None = None
    """The rank down to which hits are judged. Default: the number of notes that the run asks for (`top_k`), or 5
    without a run.
    """
    _most_hits: int | None = PrivateAttr(default=None)

    def for_run(self, top_k: int, ignores_k: bool) -> Self:
        """Return the scorer with the run's `top_k` as `k`, if `k` is not set, and as the most hits that can be judged.

        A retriever that ignores k returns all it has, so that any `k` is right for it.
        """
        chosen = self.model_copy(update={"k": self.k or top_k})
        chosen._most_hits = None if ignores_k else top_k
        return chosen

    @property
    def depth(self) -> int:
        """Return the rank down to which hits are judged."""
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
        """Return the signatures: the measure in ir_measures, relevance, and treatment of ties and empty rankings."""
        return {
            metric: f"{measure!r}|ir_measures|{_RELEVANCE}|of:hits retrieved|ties:by rank|empty:0|v{self.version}"
            for metric, measure in self._measures().items()
        }

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Return each measure of each sample's hits, with or without an answer."""
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
        """Return each measure of each question's ranking.

        Args:
            rankings: The hits of each question; None if they are not known.
            questions: `questions[i]` belongs to `rankings[i]`.
            n_missing: The number of hits that were left out of each ranking. Default: none.
        """
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
    """Return whether a figure is about the retrieved notes instead of the answer; its signature then has `rel:`."""
    return "|rel:" in signature


def is_outdated(signature: str) -> bool:
    """Return whether version 1 made a figure, which was named @k even if a run asked for fewer than k notes."""
    return signature.endswith(f"|{_RELEVANCE}|ties:by rank|empty:0|v1")


def cutoff(metric: str) -> int | None:
    """Return the k of a metric's name (`recall@5`); None if it has none."""
    found = re.search(r"@(\d+)$", metric)
    return int(found[1]) if found else None
