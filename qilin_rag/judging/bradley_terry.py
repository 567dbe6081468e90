"""Rate runs from pairwise comparisons: the Bradley-Terry model with seeded bootstrap intervals, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import QilinError
from qilin_rag.core.ratings import Rating
from qilin_rag.core.stats import Clusters, why_too_few

N_RESAMPLES = 2_000
MEAN, ELO = 1000.0, 400.0  # a rating 400 above another's: odds of 10 to 1
PSEUDO_WINS = 0.5
_BLOCK_VALUES = 4_000_000
_TOLERANCE = 1e-10
_MOST_STEPS = 100_000
Floats = npt.NDArray[np.float64]


def rate(scores: Floats, seed: int = 0, clusters: Clusters | None = None) -> list[Rating] | None:
    """Return the ratings of k players; None if their comparisons don't connect them all.

    `scores[q, i, j]` is what i scored against j on question q (1 won, 0.5 tied), 0 both ways if they were not
    compared. Each pair that was compared at all has half a win more each way, so that nobody's rating is infinite: an
    undefeated player ends up with the odds (wins + 0.5) : 0.5 against its one opponent. Intervals are 95% percentile
    bootstrap over questions: comparisons of one question, and of questions of one cluster, stay together. There is no
    interval under 20 clusters, under the worth of 15 equal ones, or if all resamples are the same.

    Args:
        scores: (n_questions, k, k).
        seed: Draws the resamples.
        clusters: (n_questions,), the number of the cluster of each question; None: each question is a cluster.
    """
    n, k = scores.shape[:2]
    sizes = np.ones(n)
    if clusters is not None:
        _, numbers = np.unique(clusters, return_inverse=True)
        sizes = np.bincount(numbers).astype(np.float64)
        n = len(sizes)
        of_clusters = np.zeros((n, k, k))
        np.add.at(of_clusters, numbers, scores)
        scores = of_clusters
    wins = scores.sum(axis=0)
    compared = (wins + wins.T) > 0
    if not np.linalg.matrix_power(np.eye(k) + compared, k).all():
        return None
    pseudo = PSEUDO_WINS * compared
    ratings = _ratings(wins + pseudo)
    if why := why_too_few(sizes, "questions"):
        return [Rating(value=float(rating), ci95=None, no_interval=why) for rating in ratings]
    rng = np.random.default_rng(seed)
    block = max(1, min(N_RESAMPLES, _BLOCK_VALUES // max(n, k * k)))
    resampled = np.concatenate(
        [
            _ratings(np.tensordot(_draws(rng, n, min(block, N_RESAMPLES - start)), scores, axes=1) + pseudo)
            for start in range(0, N_RESAMPLES, block)
        ]
    )
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return [
        Rating(value=float(ratings[i]), ci95=(float(low[i]), float(high[i])))
        if high[i] - low[i] > _TOLERANCE * MEAN
        else Rating(value=float(ratings[i]), ci95=None, no_interval="all results are the same")
        for i in range(k)
    ]


def _draws(rng: np.random.Generator, n: int, times: int) -> Floats:
    """Draw resamples; return how often each question is in each of them."""
    return rng.multinomial(n, np.full(n, 1 / n), size=times).astype(np.float64)


def _ratings(wins: Floats) -> Floats:
    """Scale log-strengths as Elo ratings with the mean 1000."""
    ratings: Floats = MEAN + ELO / np.log(10) * log_strengths(wins)
    return ratings


def log_strengths(wins: Floats) -> Floats:
    """Return maximum likelihood log-strengths (Bradley and Terry), mean 0, by the MM algorithm (Hunter 2004, eq. 3).

    `wins[..., i, j]`: how often i won against j; ties are half a win each.
    """
    games = wins + np.swapaxes(wins, -1, -2)
    won = wins.sum(axis=-1)
    logs = np.zeros(won.shape)
    for _ in range(_MOST_STEPS):
        strengths = np.exp(logs)
        expected = (games / (strengths[..., :, None] + strengths[..., None, :])).sum(axis=-1)
        better: Floats = np.log(won / expected)
        better -= better.mean(axis=-1, keepdims=True)
        if np.abs(better - logs).max() < _TOLERANCE:
            return better
        logs = better
    raise QilinError(f"the Bradley-Terry ratings did not settle within {_MOST_STEPS:,} steps")
