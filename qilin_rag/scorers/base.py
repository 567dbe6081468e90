"""The interface of a scorer, and the rule which samples count.

`ok` and `truncated` answers are scored, an empty one as the metric has it (0); `failed` and `filtered` ones are
unscored: their value is None, never a silent 0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

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

    def unavailable(self) -> str | None:
        """Why this can't be used as things stand (what would have to be installed or fetched); None where it can.

        Asked of metrics nobody named, so it must be quick and import nothing heavy.
        """
        return None

    def prepare(self) -> None:
        """Load what scoring needs. Called before the first question is asked, so that what is broken costs nothing."""


class Remarked(NamedTuple):
    """A value with something to say about it, which is counted in the summary: "cut to 512 tokens"."""

    value: float
    reason: str | None = None


class AnswerScorer(Scorer):
    """A scorer with one metric that looks at the answer and its references only: the easy one to write."""

    metric: ClassVar[str]

    @abstractmethod
    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float | Remarked]:
        """The value of each answer, given its reference answers; a `Remarked` one where there is more to say."""

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Score the answers that count; the others get None and the reason."""
        counted = [i for i, sample in enumerate(samples) if sample.is_answered]
        values = self.score_answers([samples[i].answer for i in counted], [questions[i].references for i in counted])
        by_row = dict(zip(counted, values, strict=True))
        return [self._judge(sample, by_row.get(i)) for i, sample in enumerate(samples)]

    def _judge(self, sample: Sample, found: float | Remarked | None) -> Score:
        value, reason = found if isinstance(found, Remarked) else Remarked(math.nan if found is None else float(found))
        if not math.isfinite(value):
            return Score(
                question_id=sample.question_id,
                metric=self.metric,
                value=None,
                reason=sample.status if found is None else "not a number",
            )
        return Score(question_id=sample.question_id, metric=self.metric, value=value, reason=reason)
