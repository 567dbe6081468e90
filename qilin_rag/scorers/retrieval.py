"""How well the notes were found: recall, nDCG and reciprocal rank at k against the reference notes, by ir_measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PositiveInt

from qilin_rag.scorers.base import Scorer
from qilin_rag.types import Hit, Question, Sample, Score


class Retrieval(Scorer):
    """recall@k, ndcg@k and mrr@k of the hits; a reference note is relevant (1), any other is not.

    The evaluator gets scores rewritten from our ranks, so that its own order of ties can't change a figure. A
    question whose ranking is empty scores 0; one without reference notes is unscored.
    """

    k: PositiveInt = 5

    def _measures(self) -> dict[str, Any]:
        import ir_measures

        measures = {
            "recall": ir_measures.R @ self.k,
            "ndcg": ir_measures.nDCG @ self.k,
            "mrr": ir_measures.RR @ self.k,
        }
        return {f"{name}@{self.k}": measure for name, measure in measures.items()}

    def signatures(self) -> dict[str, str]:
        """The measure as ir_measures writes it, relevance, and how ties and empty rankings are treated."""
        return {
            metric: f"{measure!r}|ir_measures|rel:reference notes|ties:by rank|empty:0|v{self.version}"
            for metric, measure in self._measures().items()
        }

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Each measure of each sample's hits, whatever became of the answer."""
        return self.score_hits([sample.hits for sample in samples], questions)

    def score_hits(self, rankings: Sequence[Sequence[Hit]], questions: Sequence[Question]) -> list[Score]:
        """Each measure of each question's ranking."""
        import ir_measures

        measures = self._measures()
        names = {measure: metric for metric, measure in measures.items()}
        judged = [row for row, question in enumerate(questions) if question.reference_notes]
        qrels = [
            ir_measures.Qrel(str(row), str(note_idx), 1)
            for row in judged
            for note_idx in questions[row].reference_notes
        ]
        run = [
            ir_measures.ScoredDoc(str(row), str(hit.note_idx), float(-hit.rank))
            for row in judged
            for hit in rankings[row]
        ]
        values = {(row, metric): 0.0 for row in judged for metric in measures}
        if run:
            for found in ir_measures.iter_calc(list(measures.values()), qrels, run):
                values[int(found.query_id), names[found.measure]] = float(found.value)
        return [
            Score(
                question_id=question.id,
                metric=metric,
                value=values.get((row, metric)),
                reason=None if (row, metric) in values else "no reference notes",
            )
            for row, question in enumerate(questions)
            for metric in measures
        ]
