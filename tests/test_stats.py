"""Intervals, tests and power against scipy, closed forms and simulation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag import stats

Values = npt.NDArray[np.float64]
NAN = float("nan")

SAMPLES: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "normal": lambda rng, n: rng.normal(3, 2, n),
    "skewed": lambda rng, n: rng.exponential(1, n),
    "bounded": lambda rng, n: rng.beta(2, 5, n),
}
MEANS = {"normal": 3.0, "skewed": 1.0, "bounded": 2 / 7}


def interval95(values: stats.Values, clusters: stats.Clusters | None = None, seed: int = 0) -> stats.Interval | None:
    return stats.intervals95(values[:, None], clusters, seed)[0]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- standard error ---------------------------------------------------------------------------------------------------


def test_standard_error_is_scipys() -> None:
    values = rng(1).beta(2, 5, 300)
    assert stats.standard_error(values) == pytest.approx(scipy.stats.sem(values), abs=1e-15)
    assert stats.standard_error(values, np.arange(300)) == pytest.approx(scipy.stats.sem(values), abs=1e-15)


def test_copies_in_clusters_add_no_evidence() -> None:
    values = rng(1).beta(2, 5, 40)
    clusters = np.repeat(np.arange(40), 3)
    assert stats.standard_error(np.repeat(values, 3), clusters) == pytest.approx(scipy.stats.sem(values), abs=1e-15)
    assert stats.intervals95(np.repeat(values, 3)[:, None], clusters) == [pytest.approx(interval95(values))]
    [p] = stats.permutation_test(np.repeat(values - 0.3, 3)[:, None], clusters)
    assert [p] == stats.permutation_test((values - 0.3)[:, None])


def test_cluster_error_by_hand() -> None:
    """Clusters {1, 2} and {6}: mean 3, sums of deviations -3 and 3, error sqrt(18 * 2) / 3."""
    assert stats.standard_error(np.array([1.0, 2, 6]), np.array([4, 4, 9])) == pytest.approx(2.0)


def test_too_few_clusters_say_nothing() -> None:
    for few in ([], [0.3], [NAN, 0.3]):
        assert interval95(np.array(few, dtype=float)) is None
    assert stats.standard_error(np.array([0.3])) is None
    assert stats.standard_error(np.array([0.3, 0.4]), np.array([7, 7])) is None
    assert interval95(np.array([0.3, 0.4]), np.array([7, 7])) is None


def test_the_same_query_is_one_cluster() -> None:
    assert stats.query_clusters(["手冲 咖啡", "Ａ", "手冲咖啡", "a ", "茶"]).tolist() == [0, 1, 0, 1, 2]


# --- intervals --------------------------------------------------------------------------------------------------------


def resampled(values: Values, seed: int = 0, clusters: stats.Clusters | None = None) -> Values:
    sums, sizes = stats._cluster_sums(stats._Columns.of(values[:, None], clusters))
    return np.concatenate(list(stats._resampled_means(sums, sizes, seed)))[:, 0]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_intervals_are_scipys_given_the_same_resamples(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = SAMPLES[name](rng(2), 80)
    if method == "percentile":
        monkeypatch.setattr(stats, "_FEWEST_FOR_BCA", 81)
    ours = interval95(values)
    given = SimpleNamespace(bootstrap_distribution=resampled(values))
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=0, method=method, bootstrap_result=given)
    assert ours is not None
    assert ours[:2] == pytest.approx(tuple(theirs.confidence_interval), rel=1e-12)
    assert ours.method == method.lower()


def test_resamples_are_means_of_rows_drawn_with_replacement() -> None:
    values = rng(3).random(30)
    drawn = rng(5).integers(0, 30, size=(stats.N_RESAMPLES, 30))
    assert resampled(values, seed=5) == pytest.approx(values[drawn].mean(axis=1), abs=1e-14)


def test_resamples_of_clusters_are_means_over_all_their_rows() -> None:
    values, clusters = rng(3).random(30), np.arange(30) // 4
    drawn = rng(0).integers(0, 8, size=(stats.N_RESAMPLES, 8))
    first = np.concatenate([values[clusters == cluster] for cluster in drawn[0]]).mean()
    assert resampled(values, clusters=clusters)[0] == pytest.approx(first, abs=1e-14)


def test_intervals_are_seeded_and_the_same_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = rng(4).random(50)
    whole = interval95(values, seed=7)
    assert whole == interval95(values, seed=7) != interval95(values, seed=8)
    monkeypatch.setattr(stats, "_BLOCK_VALUES", 5_000)
    assert interval95(values, seed=7) == pytest.approx(whole)


def test_columns_together_are_as_alone() -> None:
    values = rng(5).random((60, 4))
    values[[3, 8], 1] = NAN
    values[:, 3] = NAN
    together = stats.intervals95(values)
    for column in range(3):
        scored = values[~np.isnan(values[:, column]), column]
        alone = interval95(scored)
        assert alone is not None
        assert together[column] == pytest.approx(alone)
    assert together[3] is None


def test_where_bca_says_nothing_the_percentile_interval_says_so() -> None:
    assert interval95(np.full(30, 0.5)) == (0.5, 0.5, "percentile")
    few = interval95(rng(6).random(9))
    assert few is not None
    assert few.method == "percentile"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.integers(0, 3))
def test_intervals_are_finite_and_within_the_values(values: list[float], seed: int) -> None:
    interval = interval95(np.array(values), seed=seed)
    assert interval is not None
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_coverage_of_the_interval(name: str) -> None:
    """1,000 simulations at n = 100, as 1,000 columns that share their resamples."""
    values = np.stack([SAMPLES[name](rng(seed), 100) for seed in range(1000, 2000)], axis=1)
    intervals = stats.intervals95(values, seed=1)
    covered = np.mean([each is not None and each.low <= MEANS[name] <= each.high for each in intervals])
    assert 0.93 <= covered <= 0.97


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_up_to_twelve_the_permutation_test_is_exact(n: int) -> None:
    differences = rng(n).normal(0.4, 1, n)
    differences[0] = round(differences[0], 1)
    theirs = scipy.stats.permutation_test(
        (differences, np.zeros(n)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    signs = np.array(list(itertools.product([1, -1], repeat=n)))
    by_hand = (np.abs((signs * differences).sum(1)) >= abs(differences.sum()) - 1e-9).mean()
    [ours] = stats.permutation_test(differences[:, None])
    assert ours == pytest.approx(by_hand, abs=1e-12)
    assert ours == pytest.approx(min(1.0, theirs.pvalue), abs=1e-12)


def test_beyond_twelve_random_signs_come_close_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = rng(8).normal(0.3, 1, (14, 3))
    drawn = stats.permutation_test(differences)
    assert all(p is not None and (p * 10_001) == pytest.approx(round(p * 10_001)) and p > 0 for p in drawn)
    monkeypatch.setattr(stats, "EXACT_UP_TO", 14)
    assert drawn == pytest.approx(stats.permutation_test(differences), abs=0.02)


def test_ties_and_wins_of_equal_size_have_the_sign_tests_p() -> None:
    differences = np.array([1.0] * 9 + [-1.0] * 2 + [0.0])
    [p] = stats.permutation_test(differences[:, None])
    assert p == pytest.approx(scipy.stats.binomtest(2, 11).pvalue, abs=1e-12)


def test_one_cluster_shows_nothing() -> None:
    assert stats.permutation_test(np.array([[0.7]])) == [1.0]


def test_no_difference_and_no_values() -> None:
    nothing = np.stack([np.zeros(40), np.full(40, NAN)], axis=1)
    assert stats.permutation_test(nothing) == [1.0, None]


def test_p_is_uniform_where_there_is_no_difference() -> None:
    differences = rng(10).laplace(0, 1, (60, 600))
    p_values = [p for p in stats.permutation_test(differences) if p is not None]
    assert len(p_values) == 600
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.001


def test_p_is_uniform_where_clusters_hide_that_there_is_none() -> None:
    """Three copies of each difference: taken for independent, far too many p would be small."""
    differences = np.repeat(rng(11).normal(0, 1, (40, 600)), 3, axis=0)
    clusters = np.repeat(np.arange(40), 3)
    p_values = [p for p in stats.permutation_test(differences, clusters) if p is not None]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.001
    naive = [p for p in stats.permutation_test(differences) if p is not None]
    assert scipy.stats.kstest(naive, "uniform").pvalue < 1e-6


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 12), (3, 4), (7, 9), (50, 100), (1, 2_000_000)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert stats.wilson95(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_clusters_is_of_as_many_draws_as_they_are_worth() -> None:
    values = np.array([1, 0, 0, 1, 0, 0, 0], float)
    alone = stats.wilson95(2 / 7, 7)
    assert stats.share95(values) == stats.share95(values, np.arange(7)) == pytest.approx(alone, abs=1e-12)
    copied = stats.share95(np.repeat(values, 3), np.repeat(np.arange(7), 3))
    assert copied == pytest.approx(alone, abs=1e-12)
    assert stats.share95(np.ones(6), np.array([0, 0, 0, 0, 1, 1])) == stats.wilson95(1, 2)
    assert stats.share95(np.array([0.0, 1.0] * 4), np.repeat(np.arange(4), 2)) == stats.wilson95(0.5, 8)


def test_the_interval_of_a_share_holds_where_users_are_alike_in_themselves() -> None:
    """200 users of 1 to 20 answers each, each liking as often as drawn from Beta(.4, 1.6): a mean of .2."""
    drawn = rng(5)
    held, held_naively = 0, 0
    for _ in range(400):
        sizes = drawn.integers(1, 21, 200)
        clusters = np.repeat(np.arange(200), sizes)
        values = (drawn.random(len(clusters)) < drawn.beta(0.4, 1.6, 200)[clusters]).astype(float)
        low, high = stats.share95(values, clusters)
        held += low <= 0.2 <= high
        low, high = stats.share95(values)
        held_naively += low <= 0.2 <= high
    assert 0.92 <= held / 400 <= 0.98
    assert held_naively / 400 < 0.8


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    assert stats.detectable_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    stderr = 2 / np.sqrt(100)
    shifted = rng(12).normal(stats.detectable_difference(float(stderr)), 2, (100, 600))
    found = np.mean([p is not None and p <= 0.05 for p in stats.permutation_test(shifted)])
    assert 0.75 <= found <= 0.85


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendalls_tau_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    ours = stats.kendall_tau(first, second)
    theirs = scipy.stats.kendalltau(first, second).statistic
    assert ours is None if np.isnan(theirs) else ours == pytest.approx(theirs, abs=1e-12)
