"""Scores of a run as numbers: objects would take ten times the memory."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from qilin_rag.core.types import Score


class ScoreColumn(Sequence[Score]):
    """The scores of the questions of a run by one metric, in the order of the questions.

    Attributes:
        values: The value of each question, NaN if there is none.
        signature: The signature of all scores.
    """

    def __init__(self, metric: str, question_ids: Sequence[str], signature: str = "") -> None:
        """Begin without a score."""
        self.values = array("d", [math.nan]) * len(question_ids)
        self.signature = signature
        self._metric, self._ids = metric, question_ids
        self._times = bytearray(len(question_ids))
        self._reasons: dict[int, str] = {}
        self._is_whole = True

    def put(self, row: int, score: Score) -> None:
        """Set the score of a question."""
        if score.value is not None:
            self.values[row] = score.value
        if score.reason is not None:
            self._reasons[row] = score.reason
        self._times[row] = min(2, self._times[row] + 1)
        self._is_whole = self._is_whole and score.signature == self.signature

    def has(self, row: int) -> bool:
        """Return whether a question has its score."""
        return self._times[row] > 0

    @property
    def is_complete(self) -> bool:
        """Return whether each question has one score, all of one signature."""
        return self._is_whole and self._times.count(1) == len(self._times)

    def sign(self, signature: str) -> None:
        """Set the signature of all scores."""
        self.signature = signature

    def count_reasons(self) -> dict[str, int]:
        """Count the reasons and remarks, in the order of their names."""
        return dict(sorted(Counter(reason for reason in self._reasons.values() if reason).items()))

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, row: int) -> Score: ...
    @overload
    def __getitem__(self, row: slice) -> list[Score]: ...
    def __getitem__(self, row: int | slice) -> Score | list[Score]:
        if isinstance(row, slice):
            return [self[number] for number in range(len(self))[row]]
        number, value = range(len(self))[row], self.values[row]
        return Score(
            question_id=self._ids[number],
            metric=self._metric,
            value=None if math.isnan(value) else value,
            reason=self._reasons.get(number),
            signature=self.signature,
        )


class ScoreTable:
    """The scores of the questions of a run by several metrics, in the order in which the metrics came.

    Attributes:
        columns: The scores by metric.
        ids: The questions.
    """

    def __init__(self, question_ids: Sequence[str]) -> None:
        """Begin without a metric. Scores of other questions are passed over."""
        self.columns: dict[str, ScoreColumn] = {}
        self.ids = question_ids
        self._rows = {question_id: row for row, question_id in enumerate(question_ids)}

    def add(self, scores: Iterable[Score]) -> None:
        """Add scores."""
        for score in scores:
            if (row := self._rows.get(score.question_id)) is None:
                continue
            if (column := self.columns.get(score.metric)) is None:
                column = self.columns[score.metric] = ScoreColumn(score.metric, self.ids, score.signature)
            column.put(row, score)

    def has(self, question_id: str) -> bool:
        """Return whether a question has scores."""
        return any(column.has(self._rows[question_id]) for column in self.columns.values())

    def __iter__(self) -> Iterator[Score]:
        """Yield all scores of the first question, then those of the next."""
        columns = list(self.columns.values())
        return (column[row] for row in range(len(self.ids)) for column in columns)
