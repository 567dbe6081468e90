"""Correlations equal scipy's, weighted ones those of rows repeated so often; none is ever NaN for a user."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from qilin_rag.agreement.correlations import KendallSums, pearson, pearsons, ranks, spearman, spearmans
from qilin_rag.core.stats import Values, kendall_tau


def tied(seed: int, n: int = 60) -> tuple[Values, Values]:
    """Return scores and labels with many ties that have something in common."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-2, 3, n).astype(np.float64)
    return np.round(labels + rng.normal(0, 2, n)) / 4, labels


@pytest.mark.parametrize("seed", range(5))
def test_they_equal_scipys(seed: int) -> None:
    scores, labels = tied(seed)
    assert pearson(scores, labels) == pytest.approx(scipy_stats.pearsonr(scores, labels).statistic, abs=1e-9)
    assert spearman(scores, labels) == pytest.approx(scipy_stats.spearmanr(scores, labels).statistic, abs=1e-9)
    theirs = scipy_stats.kendalltau(scores, labels).statistic
    assert kendall_tau(scores.tolist(), labels.tolist()) == pytest.approx(theirs, abs=1e-9)
    assert ranks(scores) == pytest.approx(scipy_stats.rankdata(scores) - (len(scores) + 1) / 2, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_weight_is_so_many_rows(seed: int) -> None:
    scores, labels = tied(seed, 30)
    clusters = np.arange(30) // 3
    of_clusters = np.random.default_rng(seed).integers(0, 4, (5, 10)).astype(np.float64)
    weights = of_clusters[:, clusters]
    taus = KendallSums(scores, labels, clusters).taus(of_clusters)
    for row, counts in enumerate(weights.astype(int)):
        x, y = np.repeat(scores, counts), np.repeat(labels, counts)
        assert pearsons(scores, labels, weights)[row] == pytest.approx(scipy_stats.pearsonr(x, y).statistic, abs=1e-9)
        assert spearmans(scores, labels, weights)[row] == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-9)
        assert taus[row] == pytest.approx(scipy_stats.kendalltau(x, y).statistic, abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([0.1] * 7, [1, 2, 3, 4, 5, 6, 7]), ([1, 2, 3], [0.3] * 3), ([1], [1]), ([], []), ([1e300, 2e300], [1, 1])],
)
def test_nothing_to_correlate_is_none(scores: list[float], labels: list[float]) -> None:
    x, y = np.array(scores, dtype=np.float64), np.array(labels, dtype=np.float64)
    assert (pearson(x, y), spearman(x, y), kendall_tau(scores, labels)) == (None, None, None)


def test_large_values_far_from_0_keep_their_correlation() -> None:
    scores, labels = tied(1)
    assert pearson(1e9 + scores, labels) == pytest.approx(pearson(scores, labels), abs=1e-6)
