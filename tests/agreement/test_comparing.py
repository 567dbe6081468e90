"""The test between measures is a direct reading of PERM-BOTH; ranks and the test against sentinels follow from it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata, zscore

from qilin_rag.agreement.comparing import (
    STATISTICS,
    Statistic,
    beats_all,
    compare_measures,
    holm_matrix,
    rank_clusters,
)
from qilin_rag.core.stats import Values

NAN = np.nan


def slow_p(one: list[float], other: list[float], labels: list[float], clusters: list[int]) -> float:
    """Return the share of all exchanges of clusters whose difference in correlation is as far from 0."""

    def gain(first: Values, second: Values) -> float:
        return float(pearsonr(first, labels).statistic - pearsonr(second, labels).statistic)

    a, b = zscore(one), zscore(other)
    of_data = abs(gain(a, b))
    found = []
    for exchanged in product([False, True], repeat=len(set(clusters))):
        swap = np.array(exchanged)[clusters]
        found.append(abs(gain(np.where(swap, b, a), np.where(swap, a, b))) >= of_data - 1e-9)
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(3))
def test_it_is_perm_both(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = [0, 0, 1, 1, 2, 3, 4, 5, 6]
    labels = rng.integers(-2, 3, 9).astype(float)
    one, other = labels + rng.normal(0, 1, 9), 5 * rng.normal(size=9)
    found = compare_measures([one, other], labels, np.array(clusters))
    p = found.p
    gain = pearsonr(one, labels).statistic - pearsonr(other, labels).statistic
    assert found.gains[0, 1] == -found.gains[1, 0] == pytest.approx(gain)
    assert p[0, 1] == p[1, 0] == pytest.approx(slow_p(one.tolist(), other.tolist(), labels.tolist(), clusters))
    of_ranks = compare_measures([one, other], labels, np.array(clusters), "spearman").p[0, 1]
    ranked = [rankdata(values).tolist() for values in (one, other, labels)]
    assert of_ranks == pytest.approx(slow_p(ranked[0], ranked[1], ranked[2], clusters))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_good_measure_is_told_from_noise(statistic: Statistic) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(-2, 3, 120).astype(float)
    measures = [labels + rng.normal(0, 0.5, 120), rng.normal(size=120), 3 * labels + rng.normal(0, 1.5, 120)]
    p = compare_measures(measures, labels, np.arange(120), statistic).p
    assert p[0, 1] < 0.01 and p[1, 2] < 0.01 and p[0, 2] > 0.05
    assert np.isnan(np.diag(p)).all()


def test_unscored_rows_are_left_out_and_constant_measures_untested() -> None:
    rng = np.random.default_rng(5)
    labels, one, other = rng.normal(size=(3, 30))
    holes = other.copy()
    holes[:10] = NAN
    p = compare_measures([one, holes, np.ones(30), np.full(30, NAN)], labels, np.arange(30)).p
    assert p[0, 1] == compare_measures([one[10:], other[10:]], labels[10:], np.arange(20)).p[0, 1]
    assert np.isnan(p[2:]).all()


def test_a_constant_measure_has_an_accuracy_to_beat() -> None:
    labels = np.tile([-1.0, 1.0, 0.0], 20)
    found = compare_measures([labels, np.zeros(60)], labels, np.arange(60), "accuracy")
    assert found.p[0, 1] < 0.001 and found.gains[0, 1] == pytest.approx(2 / 3)


def test_holm_counts_known_pairs_only() -> None:
    p = np.array([[NAN, 0.01, NAN], [0.01, NAN, 0.04], [NAN, 0.04, NAN]])
    adjusted = holm_matrix(p)
    assert (adjusted[0, 1], adjusted[1, 2]) == (0.02, 0.04)
    assert np.isnan(adjusted[0, 2])


def test_a_rank_is_shared_with_the_leader_only() -> None:
    """b is not worse than a, c is worse than a, d is not worse than c."""
    p = np.ones((4, 4))
    p[0, 2] = p[2, 0] = p[0, 3] = p[3, 0] = 0.01
    gains = np.triu(np.full((4, 4), 0.1), 1)
    assert rank_clusters([0.9, 0.8, 0.7, 0.6], gains - gains.T, p) == [1, 1, 2, 2]
    assert rank_clusters([0.6, 0.7, None, 0.9], *np.full((2, 4, 4), NAN)) == [1, 1, None, 1]


def test_a_measure_that_is_better_on_shared_rows_is_not_of_a_lower_rank() -> None:
    gains = np.array([[NAN, -0.3], [0.3, NAN]])
    assert rank_clusters([0.9, 0.8], gains, np.full((2, 2), 0.001)) == [1, 1]


def test_a_measure_must_be_better_than_every_rival() -> None:
    gains = np.array([[0.3, 0.2], [0.2, 0.1], [-0.1, -0.2]])
    p = np.array([[0.001, 0.02], [0.001, 0.3], [0.001, 0.001]])
    assert beats_all(gains, p) == [pytest.approx(0.06), pytest.approx(0.6), None]
    assert beats_all(np.array([[0.1, NAN]]), np.array([[0.01, NAN]])) == [None]
    assert beats_all(np.zeros((1, 0)), np.zeros((1, 0))) == [None]


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
def test_an_unsigned_measure_is_as_strong_turned_round(statistic: Statistic) -> None:
    rng = np.random.default_rng(6)
    labels, one = rng.normal(size=(2, 40))
    other = labels + rng.normal(0, 0.5, 40)
    usual = compare_measures([one, other], labels, np.arange(40), statistic)
    turned = compare_measures([one, -other], labels, np.arange(40), statistic, unsigned=[1])
    assert np.array_equal(usual.gains, turned.gains, equal_nan=True)
    assert np.array_equal(usual.p, turned.p, equal_nan=True)
