"""How often intervals of agreement hold the truth, and tests of two measures find nothing if there is nothing.

Made-up worlds, in which scores and labels of one user, and of one question, have something in common. `holds`: how
often the interval held the true figure; `below` and `above`: how often it was below and above it. `rejects`: how often
the test of two equally good measures had p at most .05.

usage: python benchmarks/agreement_coverage.py [worlds] [user|question|both|tests ...]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.agreement.auc import aucs
from qilin_rag.agreement.comparing import STATISTICS, compare_measures
from qilin_rag.agreement.correlations import KendallSums, pearsons, plain, spearmans
from qilin_rag.agreement.intervals import AgreementFigure, Scale, by_row, with_interval
from qilin_rag.agreement.tie_calibration import tie_calibrated, tie_calibrated_accuracies
from qilin_rag.core.stats import kendall_tau

N_WORLDS = 1_000
RHO = 0.5
"""The true correlation of score and latent label."""
CLUSTERED = {"little": 0.1, "much": 0.4}
"""The share of variance that belongs to the user, and to the question."""


class Size(NamedTuple):
    """The number of users, or of questions, or of both, and that of rows."""

    n_clusters: tuple[int, ...]
    n_rows: int


SIZES = {
    "user": [Size((20,), 100), Size((50,), 250), Size((200,), 400)],
    "question": [Size((140,), 300)],
    "both": [Size((20, 30), 150), Size((60, 80), 300)],
}
TESTS = "tests"

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]


class World(NamedTuple):
    """Scores and latent labels of rows, each of one user and one question."""

    scores: Floats
    labels: Floats
    users: Numbers
    questions: Numbers


def world(rng: np.random.Generator, share: float, n_users: int, n_questions: int, n_rows: int) -> World:
    """Draw a world: users ask unequally often, questions are unequally common."""
    users = rng.permutation(np.concatenate([np.arange(n_users), rng.choice(n_users, n_rows - n_users)]))
    questions = rng.permutation(np.concatenate([np.arange(n_questions), rng.choice(n_questions, n_rows - n_questions)]))
    parts = [(share, users, n_users), (share, questions, n_questions), (1 - 2 * share, np.arange(n_rows), n_rows)]
    drawn = np.zeros((n_rows, 2))
    for variance, numbers, n in parts:
        pairs = rng.multivariate_normal([0, 0], [[1, RHO], [RHO, 1]], size=n)
        drawn += math.sqrt(variance) * pairs[numbers]
    return World(drawn[:, 0], drawn[:, 1], users, questions)


def graded(labels: Floats) -> Floats:
    """Return what a person says of a latent label: -2 to 2, with many ties."""
    return np.clip(np.round(labels * 1.2), -2, 2)


@cache
def truths() -> dict[str, float]:
    """Return the true figures: known ones of a bivariate normal, the others from a million rows."""
    rng = np.random.default_rng(0)
    x, y = rng.multivariate_normal([0, 0], [[1, RHO], [RHO, 1]], size=1_000_000).T
    calibrated = tie_calibrated(x, graded(y))
    assert calibrated
    return {
        "pearson": RHO,
        "spearman": 6 / math.pi * math.asin(RHO / 2),
        "kendall": 2 / math.pi * math.asin(RHO),
        "accuracy": calibrated.accuracy,
        "auc": plain(aucs(x, y > 0.5, np.ones((1, len(x))), np.zeros(len(x), dtype=np.intp))) or 0.0,
    }


def figures(of: World, *clusters: Numbers) -> dict[str, AgreementFigure]:
    """Return the figures with intervals by one kind of cluster, or by two that cross."""
    x, y, said, is_high = of.scores, of.labels, graded(of.labels), of.labels > 0.5
    strata, one = np.zeros(len(x), dtype=np.intp), np.ones((1, len(x)))
    by_weights: dict[str, Callable[[Floats], Floats]] = {
        "pearson": lambda weights: pearsons(x, y, weights),
        "spearman": lambda weights: spearmans(x, y, weights),
        "accuracy": lambda weights: tie_calibrated_accuracies(x, said, weights),
        "auc": lambda weights: aucs(x, is_high, weights, strata),
    }
    found = {}
    for name, figure in by_weights.items():
        scale: Scale = "share" if name in ("accuracy", "auc") else "correlation"
        found[name] = with_interval(plain(figure(one)), by_row(figure), scale, *clusters)
    if len(clusters) == 1:
        taus = KendallSums(x, y, clusters[0]).taus
        value = kendall_tau(x.tolist(), y.tolist())
        found["kendall"] = with_interval(value, lambda weights, _: taus(weights), "correlation", *clusters)
    return found


class Coverage(NamedTuple):
    """The shares of worlds whose interval held the truth, was below it, and above it."""

    holds: float
    below: float
    above: float


def coverage(clusters: str, size: Size, share: float, n_worlds: int, seed: int = 0) -> dict[str, Coverage]:
    """Return how often the intervals hold, by figure.

    Args:
        clusters: `user`, `question` or `both`.
        size: The numbers of clusters and rows of each world.
        share: The share of variance of each kind of cluster; one kind alone has the share of both.
        n_worlds: The number of worlds.
        seed: Draws the worlds.
    """
    rng = np.random.default_rng(seed)
    ends: dict[str, list[tuple[float, float]]] = {}
    for _ in range(n_worlds):
        if clusters == "both":
            n_users, n_questions = size.n_clusters
            of = world(rng, share, n_users, n_questions, size.n_rows)
            found = figures(of, of.users, of.questions)
        else:
            of = world(rng, share, size.n_clusters[0], size.n_rows, size.n_rows)
            found = figures(of, of.users)
        for name, figure in found.items():
            ends.setdefault(name, []).append(figure.ci95 or (math.nan, math.nan))
    return {name: _coverage(np.array(each), truths()[name]) for name, each in ends.items()}


def _coverage(ends: Floats, truth: float) -> Coverage:
    ends = ends[~np.isnan(ends[:, 0])]
    below, above = float((ends[:, 1] < truth).mean()), float((ends[:, 0] > truth).mean())
    return Coverage(1 - below - above, below, above)


def level(n_worlds: int, seed: int = 0, n_questions: int = 120) -> dict[str, float]:
    """Return how often two measures that agree equally well are told apart, by statistic.

    Each question has two judgements. Both measures see the latent label with noise of their own, one is of another
    scale and shape.
    """
    rng = np.random.default_rng(seed)
    questions = np.repeat(np.arange(n_questions), 2)
    rejected = dict.fromkeys(STATISTICS, 0)
    for _ in range(n_worlds):
        latent = rng.normal(size=n_questions)
        said = graded(latent[questions] + rng.normal(0, 0.6, len(questions)))
        measures = [(latent + rng.normal(0, 1, n_questions))[questions] for _ in "ab"]
        for statistic in STATISTICS:
            p = compare_measures([measures[0], 3 * measures[1] + 1], said, questions, statistic).p[0, 1]
            rejected[statistic] += bool(p <= 0.05)
    return {statistic: n / n_worlds for statistic, n in rejected.items()}


def main(n_worlds: int, kinds: Sequence[str]) -> None:
    """Print the tables of these kinds of worlds."""
    print(f"{'clusters':16} {'shared':8} {'figure':10} {'holds':>6} {'below':>6} {'above':>6}")
    for kind, size in [(kind, size) for kind, sizes in SIZES.items() if kind in kinds for size in sizes]:
        clusters = f"{' x '.join(map(str, size.n_clusters))} {kind}"
        for name, share in CLUSTERED.items():
            for figure, found in coverage(kind, size, share, n_worlds).items():
                shares = " ".join(f"{each:6.3f}" for each in found)
                print(f"{clusters:16} {name:8} {figure:10} {shares}", flush=True)
    if TESTS in kinds:
        for statistic, share in level(n_worlds).items():
            print(f"two equal measures, by {statistic}: rejects {share:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else N_WORLDS, sys.argv[2:] or [*SIZES, TESTS])
