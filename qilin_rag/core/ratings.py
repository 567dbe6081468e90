"""What a judge makes of pairs of runs: judging writes it, and reports read it."""

from __future__ import annotations

from qilin_rag.core.types import Frozen


class JudgedPair(Frozen):
    """How run `a` did against run `b`: questions won, lost and tied in both orders.

    `leaning`: tied in one order only. `flipped_to_first`, `flipped_to_second`: the place was preferred. `same`: of the
    tied, those where the two answers are one, which nobody was asked about. `unscored` counts the reasons. `score` is
    the mean of what `a` scored, null where nothing was scored.
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
        """Questions in which the answer's place decided."""
        return self.flipped_to_first + self.flipped_to_second


class RatedRun(Frozen):
    """A run with its rating; null where the judged pairs don't connect all runs."""

    run: str
    rating: Rating | None


class JudgedComparison(Frozen):
    """ratings.json: what a judge makes of some runs, over the questions that all of them have."""

    judge: str
    signature: str
    n_questions: int
    n_not_shared: int
    pairs: list[JudgedPair]
    runs: list[RatedRun]


class Rating(Frozen):
    """A rating on Elo's scale around 1000; where `ci95` is null, `no_interval` says why."""

    value: float
    ci95: tuple[float, float] | None
    no_interval: str | None = None
