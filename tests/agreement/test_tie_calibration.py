"""Tie-calibrated accuracy is that of a direct, slow reading of the paper (arXiv 2305.14324, section 5), and of WMT."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from qilin_rag.agreement.tie_calibration import pairs_of, tie_calibrated, tie_calibrated_accuracies

Groups = list[tuple[list[int], list[int]]]
NO = np.nan
# Scores, labels, accuracy and epsilon by mt-metrics-eval (github.com/google-research/mt-metrics-eval, commit 0b82d96,
# which is not on PyPI): the expected figures of its tau_optimization_test.py and stats_test.py, and a random case that
# its tau_optimization was run on.
WMT = {
    "no tie": ([[0, 2, 6, 8]], [[1, 2, 3, 4]], 1.0, 0),
    "ties": ([[0, 2, 6, 8]], [[1, 1, 1, 4]], 4 / 6, 4),
    "ties opt": ([[2, 1, 1.5, 5, 3]], [[1, 2, 2, 3, 4]], 0.7, 0.5),
    "regression": (
        [[0, 5, 2, 3, 2], [NO, 2, 1, 5, 3], [9, 1, 5, 3, 8], [9, 3, 4, 4, 1], [NO, NO, NO, NO, NO]],
        [[1, 5, 2, 1, 1], [4, 2, 2, 1, 4], [5, 9, 2, 8, 7], [7, 6, NO, 3, 2], [NO, NO, NO, NO, NO]],
        0.4916666666666668,
        1,
    ),
    "random": (
        [[7, 1, 5, 4, -1, 6], [5, -1, 3, 0, 6, 1], [5, 4, 4, 0, 3, NO], [-2, 6, 3, 3, NO, 4]],
        [[2, 2, 2, 2, 0, 2], [2, 0, NO, 0, 2, 2], [1, 1, 2, 0, 2, 2], [NO, 2, 2, 0, 1, 2]],
        0.5833333333333333,
        3,
    ),
}


def accuracy_at(epsilon: int, groups: Groups) -> Fraction:
    """Return (C + T_hm) / (C + D + T_h + T_m + T_hm), the mean over groups, with ties of the measure up to epsilon."""
    found = []
    for scores, labels in groups:
        right, n = 0, 0
        for i, j in combinations(range(len(scores)), 2):
            is_measure_tie = abs(scores[i] - scores[j]) <= epsilon
            is_human_tie = labels[i] == labels[j]
            concordant = (scores[i] - scores[j]) * (labels[i] - labels[j]) > 0
            right += is_human_tie if is_measure_tie else not is_human_tie and concordant
            n += 1
        if n:
            found.append(Fraction(right, n))
    return sum(found, Fraction(0)) / len(found)


def slow(groups: Groups) -> tuple[Fraction, int]:
    epsilons = {0} | {abs(a - b) for scores, _ in groups for a, b in combinations(scores, 2)}
    best = max(accuracy_at(epsilon, groups) for epsilon in epsilons)
    return best, min(epsilon for epsilon in epsilons if accuracy_at(epsilon, groups) == best)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_grouped", [True, False])
def test_it_is_the_papers(seed: int, is_grouped: bool) -> None:
    rng = np.random.default_rng(seed)
    items = rng.integers(0, 5, 24) if is_grouped else np.zeros(24, dtype=int)
    labels = rng.integers(0, 3, 24)
    scores = 2 * labels + rng.integers(-2, 3, 24)
    groups = [(scores[items == item].tolist(), labels[items == item].tolist()) for item in sorted(set(items.tolist()))]
    pairs = pairs_of(scores.astype(float), labels.astype(float), items.tolist() if is_grouped else None)
    found = tie_calibrated(*pairs)
    accuracy, epsilon = slow(groups)
    assert found is not None
    assert found.accuracy == pytest.approx(float(accuracy), abs=1e-9)
    assert found.epsilon == epsilon


@pytest.mark.parametrize("case", WMT)
def test_it_is_that_of_mt_metrics_eval(case: str) -> None:
    scores, labels = (np.array(rows, dtype=np.float64) for rows in WMT[case][:2])
    is_known = ~np.isnan(scores) & ~np.isnan(labels)
    items = np.nonzero(is_known)[0]
    found = tie_calibrated(*pairs_of(scores[is_known], labels[is_known], items.tolist()))
    assert found is not None
    assert (found.accuracy, found.epsilon) == pytest.approx(WMT[case][2:], abs=1e-9)


def test_each_weighting_is_calibrated_anew() -> None:
    scores, labels = np.array([0.1, 0.3, -0.2, 0.9]), np.array([0.0, 1.0, 0.0, 1.0])
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 0.0]])
    found = tie_calibrated_accuracies(scores, labels, weights)
    assert found.tolist() == [1.0, 1.0, 1.0]
    one_threshold = tie_calibrated(scores, -labels)
    assert one_threshold is not None and one_threshold.accuracy == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "accuracy"),
    [([0.0, 0.0], [0.0, 1.0], 0.5), ([1.0], [0.0], 1.0), ([1.0], [-1.0], 0.0), ([0.2, 0.4], [0.0, 0.0], 1.0)],
)
def test_all_ties_and_one_pair(scores: list[float], labels: list[float], accuracy: float) -> None:
    found = tie_calibrated(np.array(scores), np.array(labels))
    assert found is not None and found.accuracy == accuracy


def test_without_pairs_there_is_none() -> None:
    one = np.array([1.0])
    assert tie_calibrated(*pairs_of(one, one)) is None
    assert tie_calibrated(*pairs_of(np.arange(3.0), np.arange(3.0), ["a", "b", "c"])) is None
