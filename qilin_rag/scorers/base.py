"""The interface of a scorer, and the rule which samples count.

`ok` and `truncated` answers are scored, an empty one as the metric has it (0); `failed` and `filtered` ones are
unscored: their value is None, never a silent 0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.registry import Component
from qilin_rag.types import Question, Sample, Score


class Scorer(Component):
    """Scores samples against their questions, all of a run in one call."""

    @abstractmethod
    def signatures(self) -> dict[str, str]:
        """The metrics this scorer gives, each with the signature that says exactly how it is computed."""

    @abstractmethod
    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """One score for each sample and metric; `questions[i]` belongs to `samples[i]`."""


class AnswerScorer(Scorer):
    """A scorer with one metric that looks at the answer and its references only: the easy one to write."""

    metric: ClassVar[str]

    @abstractmethod
    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """The value of each answer, given its reference answers."""

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Score the answers that count; the others get None and the reason."""
        counted = [i for i, sample in enumerate(samples) if sample.status in ("ok", "truncated")]
        values = self.score_answers([samples[i].answer for i in counted], [questions[i].references for i in counted])
        by_row = dict(zip(counted, map(float, values), strict=True))
        return [
            Score(question_id=sample.question_id, metric=self.metric, value=by_row[i])
            if math.isfinite(by_row.get(i, math.nan))
            else Score(
                question_id=sample.question_id,
                metric=self.metric,
                value=None,
                reason="not a number" if i in by_row else sample.status,
            )
            for i, sample in enumerate(samples)
        ]
