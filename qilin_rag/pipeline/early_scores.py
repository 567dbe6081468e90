"""Score answers while the server works on the next ones, instead of all of them at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qilin_rag.core.types import Question, Sample
from qilin_rag.pipeline.clock import Clock
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.table import ScoreTable

logger = logging.getLogger(__name__)
_AT_ONCE = 16  # many enough that a call of a scorer costs little, few enough that no reply waits for it


class EarlyScores:
    """The scores of a session's answers by those scorers that score each answer by itself."""

    def __init__(self, scorers: Sequence[Scorer], questions: Sequence[Question], clock: Clock) -> None:
        """Begin without a score; `questions` are those that may be answered."""
        self._questions = {question.id: question for question in questions}
        ids = list(self._questions)
        self._by_scorer = {each: ScoreTable(ids) for each in scorers if each.one_by_one}
        self._clock = clock
        self._waiting: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Take a sample that is on disk, and score it with the next few.

        A scorer that fails is left to the scoring of the whole run, which raises its error when all answers are kept.
        """
        self._waiting.append(sample)
        if len(self._waiting) < _AT_ONCE:
            return
        samples, self._waiting = self._waiting, []
        questions = [self._questions[each.question_id] for each in samples]
        with self._clock.stage("scoring"):
            for scorer, table in list(self._by_scorer.items()):
                try:
                    table.add(scorer.score(samples, questions))
                except Exception:
                    logger.debug("%s can't score while questions are asked", scorer.called(), exc_info=True)
                    del self._by_scorer[scorer]

    def of(self, scorer: Scorer) -> ScoreTable | None:
        """Return the scores of a scorer; None if it did not score."""
        return self._by_scorer.get(scorer)
