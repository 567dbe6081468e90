"""Count the samples of a run while they are written: outcomes, tokens, and how fast they come."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from typing import Final, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines
from qilin_rag.core.types import Exchange, Status, Summary
from qilin_rag.pipeline.cost import Tally
from qilin_rag.pipeline.run_directory import QUERIES, QUESTIONS, REPEATS, SAMPLES
from qilin_rag.viewer.tail import Line, Tail

STATUSES: Final[tuple[str, ...]] = get_args(Status)
_LOST = 0x80  # beside the number of the status
_WINDOW_S, _LONGEST_S, _LEAST_S = 60.0, 1800.0, 3.0
_FEWEST_ANSWERS = 5


class SampleOutcome(Exchange):
    """The part of a line of samples.jsonl or queries.jsonl that is counted."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question_id: str


class QuestionId(BaseModel):
    """The part of a line of questions.jsonl that is needed here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str


class Counting:
    """The counts of a run up to a place in its samples. Of the questions only their places are kept.

    Args:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._samples, self._repeats, self._queries = (Tail(path / name) for name in (SAMPLES, REPEATS, QUERIES))
        self.restart()

    def restart(self) -> None:
        """Begin anew, and forget all that was read."""
        self._samples.restart()
        self._repeats.restart()
        self._queries.restart()
        self._tally, self._tally_of_queries = Tally(), Tally()
        self._outcomes = bytearray()
        self._places: dict[int, int] | None = None
        self.n_asked = 0

    def read(self, most_bytes: int) -> None:
        """Count what was written since the last call.

        Args:
            most_bytes: Stop after about this many bytes of each file.

        Raises:
            UsageError: if a line can't be read, or a file is not a plain one.
        """
        if any(tail.was_replaced() for tail in (self._samples, self._repeats, self._queries)):
            self.restart()
        if self._places is None:
            self._places = {}
            for question in read_lines(self._path / QUESTIONS, QuestionId):
                self._places.setdefault(hash(question.id), len(self._places))
            self._outcomes.extend(bytes(len(self._places) - len(self._outcomes)))
        for line in self._samples.lines(most_bytes):
            outcome = read_outcome(SAMPLES, line)
            self._tally.add(outcome)
            if (place := self._places.get(hash(outcome.question_id))) is not None:
                self.n_asked += 1
                self._outcomes[place] = 1 + STATUSES.index(outcome.status) + _LOST * outcome.is_lost
        for line in self._repeats.lines(most_bytes):
            self._tally.add(read_outcome(REPEATS, line))
        for line in self._queries.lines(most_bytes):
            self._tally_of_queries.add(read_outcome(QUERIES, line))

    def rest(self) -> None:
        """Free memory that is only needed while the run is written."""
        self._places = None

    @property
    def is_at_end(self) -> bool:
        """Return whether all that was written is counted."""
        return self._samples.is_at_end and self._repeats.is_at_end and self._queries.is_at_end

    @property
    def statuses(self) -> dict[str, int]:
        """Return the number of questions with each outcome, by their last sample."""
        counts = Counter(self._outcomes)
        return {
            status: n for code, status in enumerate(STATUSES, start=1) if (n := counts[code] + counts[code | _LOST])
        }

    @property
    def failed(self) -> int:
        """Return the number of questions that were lost."""
        return sum(code >= _LOST for code in self._outcomes)

    @property
    def spent(self) -> Summary:
        """Return the tokens of all calls so far, in a summary without figures."""
        return self._tally.spent

    @property
    def spent_on_queries(self) -> Summary:
        """Return the tokens of the query stage so far, in a summary without figures."""
        return self._tally_of_queries.spent


class Pace:
    """Questions a minute: over the last minute, or longer until five answers came, at most half an hour."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def stop(self) -> None:
        """Forget the pace: nothing is being written."""
        self._points.clear()

    def add(self, now_s: float, n_asked: int) -> None:
        """Note how many samples there are at a time.

        Args:
            now_s: The time in seconds.
            n_asked: The number of samples.
        """
        if self._points and (n_asked < self._points[-1][1] or now_s < self._points[-1][0]):
            self._points.clear()
        self._points.append((now_s, n_asked))
        while len(self._points) > 1 and self._is_enough(now_s - self._points[1][0], n_asked - self._points[1][1]):
            self._points.popleft()

    @staticmethod
    def _is_enough(took_s: float, n_answers: int) -> bool:
        return took_s >= _LONGEST_S or (took_s >= _WINDOW_S and n_answers >= _FEWEST_ANSWERS)

    @property
    def is_known(self) -> bool:
        """Return whether there is a point to count from."""
        return bool(self._points)

    @property
    def rate(self) -> float | None:
        """Return the questions a minute, not rounded; None if the time is too short."""
        if not self._points:
            return None
        (began_s, n_before), (now_s, n_asked) = self._points[0], self._points[-1]
        took_s = now_s - began_s
        return None if took_s < _LEAST_S else 60 * (n_asked - n_before) / took_s


def read_outcome(name: str, line: Line) -> SampleOutcome:
    """Return a line of samples or queries as far as it is counted.

    Args:
        name: The name of the file, for the error.
        line: The line.

    Raises:
        UsageError: if it is not a sample.
    """
    try:
        return SampleOutcome.model_validate_json(line.content)
    except ValidationError as error:
        raise UsageError(f"{name}, line {line.number}: not a sample: {error.errors()[0]['msg']}") from None
