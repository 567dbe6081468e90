"""A judge's results on pairs of runs: judging writes them, and reports read them."""

from __future__ import annotations

from qilin_rag.core.types import Frozen


class JudgedPair(Frozen):
    """The results of run `a` against run `b`: questions won, lost and tied, over both orders of the answers.

    Attributes:
        leaning: Questions tied in one of the two orders only.
        flipped_to_first: Questions in which the judge preferred the first place in both orders.
        flipped_to_second: Questions in which the judge preferred the second place in both orders.
        same: Tied questions in which both answers are identical, so that the judge was not asked.
        unscored: The number of questions without a result, by reason.
        score: The mean score of `a`, null if nothing was scored.
    """

    a: str
    b: str
    won: int
    lost: int
    tied: int
    leaning: int
    flipped_to_first: int
    flipped_to_second: int
    same: int
    unscored: dict[str, int]
    score: float | None

    @property
    def flipped(self) -> int:
        """Return the number of questions that the place of the answer decided."""
        return self.flipped_to_first + self.flipped_to_second


class RatedRun(Frozen):
    """A run with its rating; null if the judged pairs do not connect all runs."""

    run: str
    rating: Rating | None


class JudgedComparison(Frozen):
    """The content of ratings.json: a judge's results on some runs, over the questions that all of them have."""

    judge: str
    signature: str
    n_questions: int
    n_not_shared: int
    pairs: list[JudgedPair]
    runs: list[RatedRun]


class Rating(Frozen):
    """A rating on Elo's scale around 1000. If `ci95` is null, `no_interval` gives the reason."""

    value: float
    ci95: tuple[float, float] | None
    no_interval: str | None = None
