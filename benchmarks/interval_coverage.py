"""How often intervals hold the truth, tests find nothing where there is nothing, and printed differences are found.

1,000 made up worlds a row. `given`: how often there was an interval; `holds`: how often it then held the true mean;
`rejects`: how often the test of the true mean had p at most .05; `agree`: how often interval and test said the same of
no difference. Resamples are 2,000 in place of 10,000.

usage: python benchmarks/interval_coverage.py [coverage] [marks] [power] [ratings]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from qilin_rag.core import stats
from qilin_rag.judging.bradley_terry import rate
from qilin_rag.reports.cells import Key, compared

N_WORLDS = 1_000
N_QUESTIONS = (20, 60, 300)

Floats = npt.NDArray[np.float64]
World = tuple[Floats, float, npt.NDArray[np.intp] | None]


def dense(n: int, rng: np.random.Generator) -> Iterator[tuple[str, World]]:
    """Values that hardly repeat, and such with many zeros."""
    size = (n, N_WORLDS)
    yield "normal", (rng.normal(0, 1, size), 0.0, None)
    yield "t, 3 df", (rng.standard_t(3, size), 0.0, None)
    yield "exponential", (rng.exponential(1, size), 1.0, None)
    yield "lognormal", (rng.lognormal(0, 1, size), float(np.exp(0.5)), None)
    yield "beta(.5, 2)", (rng.beta(0.5, 2, size), 0.2, None)
    yield "half 0, exponential", (np.where(rng.random(size) < 0.5, 0, rng.exponential(1, size)), 0.5, None)
    yield "80% 0, beta(2, 2)", (np.where(rng.random(size) < 0.8, 0, rng.beta(2, 2, size)), 0.1, None)
    yield (
        "fifths, mostly 1",
        (rng.choice([0, 0.2, 0.4, 0.6, 0.8, 1], p=[0.05, 0.05, 0.1, 0.1, 0.2, 0.5], size=size), 0.77, None),
    )


def sparse(n: int, rng: np.random.Generator) -> Iterator[tuple[str, World]]:
    """Paired differences that are mostly 0."""
    size = (n, N_WORLDS)
    for share in (0.03, 0.05, 0.1, 0.3):
        is_0 = rng.random(size) >= share
        normal, one = rng.normal(0, 1, size), np.ones(size)
        yield f"sparse {share} both ways", (np.where(is_0, 0, normal), 0.0, None)
        yield f"sparse {share} both ways +-1", (np.where(is_0, 0, np.sign(normal)), 0.0, None)
        yield f"sparse {share} one way", (np.where(is_0, 0, np.abs(normal)), share * float(np.sqrt(2 / np.pi)), None)
        yield f"sparse {share} one way 1", (np.where(is_0, 0, one), share, None)


def clustered(n: int, rng: np.random.Generator) -> Iterator[tuple[str, World]]:
    """n clusters of 1 to 12 rows that share half of their variance, normal and exponential."""
    for name, shape in (("few", 0.7), ("unequal", 0.25)):
        clusters = np.repeat(np.arange(n), np.minimum(rng.geometric(shape, n), 12))
        own = rng.normal(0, 1, (len(clusters), N_WORLDS))
        yield f"clusters, {name}", (own + rng.normal(0, 1, (n, N_WORLDS))[clusters], 0.0, clusters)
        yield f"clusters, {name}, skewed", (own + rng.exponential(1, (n, N_WORLDS))[clusters], 1.0, clusters)


def coverage(rng: np.random.Generator) -> None:
    """Print the table of `paired_tests`."""
    print(f"{'':32} {'n':>4} {'given':>6} {'holds':>6} {'below':>6} {'above':>6} {'rejects':>7} {'agree':>6}")
    for worlds in (sparse, clustered, dense):
        for n in N_QUESTIONS:
            for name, (values, mean, clusters) in worlds(n, rng):
                tests = stats.paired_tests(values, clusters)
                ends = np.array([test.interval[:2] if test.interval else (np.nan, np.nan) for test in tests])
                p = np.array([test.p for test in tests])
                is_given = ~np.isnan(ends[:, 0])
                shown, agree = "     -      -      -", "     -"
                if is_given.any():
                    below, above = (ends[is_given, 1] < mean).mean(), (ends[is_given, 0] > mean).mean()
                    shown = f"{1 - below - above:6.3f} {below:6.3f} {above:6.3f}"
                    excludes_0 = (ends[is_given, 0] > 0) | (ends[is_given, 1] < 0)
                    agree = f"{(excludes_0 == (p[is_given] <= 0.05)).mean():6.3f}"
                rejects = np.mean(
                    [p is not None and p <= 0.05 for p in stats.permutation_test(values - mean, clusters)]
                )
                print(f"{name:32} {n:4} {is_given.mean():6.3f} {shown} {rejects:7.3f} {agree}", flush=True)


def marks(rng: np.random.Generator) -> None:
    """Print how often any of k identical systems is marked worse, by `compared`."""
    for k in (2, 5, 10, 20):
        n_wrong = 0
        for _ in range(N_WORLDS):
            base = rng.beta(2, 3, 100)
            columns: dict[Key, Floats] = {(0, f"s{i}"): base + rng.normal(0, 0.2, 100) for i in range(k)}
            cells, _pairs = compared(columns, [list(columns)], np.arange(100))
            n_wrong += any(not cell.best and not cell.tied for cell in cells.values())
        print(f"{k:3} identical systems, some marked worse: {n_wrong / N_WORLDS:.3f}", flush=True)


def power(rng: np.random.Generator) -> None:
    """Print how often a true difference is found that is printed as detectable, from other data and in all."""
    for n in (4, 5, 6, 7, 8, 10, 12, 13, 20, 60, 300):
        values = rng.normal(0, 1, (n, N_WORLDS))
        shown = stats.detectable_difference(1 / np.sqrt(n), n)
        if shown is None:
            print(f"n = {n:3}: not printed, {stats.why_undetectable(values[:, 0])}")
            continue
        errors = rng.normal(0, 1, (n, N_WORLDS)).std(axis=0, ddof=1)  # in place of 1, the true one
        found = [
            np.mean([p is not None and p <= 0.05 for p in stats.permutation_test(values + difference)])
            for difference in (shown, shown * errors)
        ]
        print(f"n = {n:3}: power {found[0]:.3f}, printed from other data {found[1]:.3f}", flush=True)


def ratings(rng: np.random.Generator) -> None:
    """Print the width of the interval of a rating from 100 questions, and from the same four times."""
    scores = np.zeros((100, 2, 2))
    scores[:, 0, 1] = rng.random(100) < 0.6
    scores[:, 1, 0] = 1 - scores[:, 0, 1]
    copies = np.repeat(scores, 4, axis=0)
    for name, rated in (
        ("once", rate(scores)),
        ("four times", rate(copies)),
        ("four times, clustered", rate(copies, clusters=np.repeat(np.arange(100), 4))),
    ):
        assert rated and rated[0].ci95
        print(f"100 questions {name}: an interval of {rated[0].ci95[1] - rated[0].ci95[0]:.1f}")


def main() -> None:
    """Print the tables that are named, or all."""
    stats.N_RESAMPLES = 2_000
    parts: dict[str, Callable[[np.random.Generator], None]] = {
        "coverage": coverage,
        "marks": marks,
        "power": power,
        "ratings": ratings,
    }
    for name in sys.argv[1:] or parts:
        parts[name](np.random.default_rng(0))


if __name__ == "__main__":
    main()
