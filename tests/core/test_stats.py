"""Intervals, tests and power against scipy, closed forms and simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_rag.core import stats
from qilin_rag.core.memo import Memo

Values = npt.NDArray[np.float64]
NAN = float("nan")

SAMPLES: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "normal": lambda rng, n: rng.normal(3, 2, n),
    "skewed": lambda rng, n: rng.exponential(1, n),
    "bounded": lambda rng, n: rng.beta(2, 5, n),
}


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_FAMILIES", Memo(most=0))
    monkeypatch.setattr(stats, "_TESTS", Memo(most=0))


def assess(values: stats.Values, clusters: stats.Clusters | None = None, seed: int = 0) -> stats.PairedTest:
    return stats.paired_tests(values[:, None], clusters, seed)[0]


def interval_of(values: stats.Values, clusters: stats.Clusters | None = None, seed: int = 0) -> stats.Interval:
    found = assess(values, clusters, seed).interval
    assert found
    return found


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
    alone, copied = assess(values - 0.3), assess(np.repeat(values - 0.3, 3), clusters)
    assert copied.p == alone.p
    assert copied.interval and alone.interval
    assert copied.interval[:2] == pytest.approx(alone.interval[:2], abs=1e-12)


def test_cluster_error_by_hand() -> None:
    """Clusters {1, 2} and {6}: mean 3, sums of deviations -3 and 3, error sqrt(18 * 2) / 3."""
    assert stats.standard_error(np.array([1.0, 2, 6]), np.array([4, 4, 9])) == pytest.approx(2.0)


def test_too_few_clusters_have_no_error() -> None:
    assert stats.standard_error(np.array([0.3])) is None
    assert stats.standard_error(np.array([0.3, 0.4]), np.array([7, 7])) is None


def test_the_same_query_is_one_cluster() -> None:
    assert stats.query_clusters(["手冲 咖啡", "Ａ", "手冲咖啡", "a ", "茶"]).tolist() == [0, 1, 0, 1, 2]


# --- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("n", [20, 80])
def test_the_ends_of_an_interval_are_where_the_test_begins_to_reject(name: str, n: int) -> None:
    values = SAMPLES[name](rng(n), n)
    low, high, method = interval_of(values)
    assert method == "sign-flip"
    step = 0.01 * (high - low)
    p_values = [assess(values - end).p for end in (low - step, low + step, high - step, high + step)]
    assert all(p is not None for p in p_values)
    assert [p is not None and p <= 0.05 for p in p_values] == [True, False, False, True]


def test_the_interval_of_symmetric_values_is_about_that_of_t() -> None:
    values = rng(3).normal(3, 2, 200)
    expected = scipy.stats.t.interval(0.95, 199, values.mean(), scipy.stats.sem(values))
    assert interval_of(values)[:2] == pytest.approx(expected, abs=0.03)


def test_the_interval_of_skewed_values_reaches_further_where_their_tail_is() -> None:
    values = np.quantile(rng(4).exponential(1, 10_000), np.linspace(0.01, 0.99, 60))
    low, high, _ = interval_of(values)
    assert high - values.mean() > 1.1 * (values.mean() - low)
    mirrored = interval_of(-values)
    assert mirrored[:2] == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([]), "nothing is scored"),
        (np.array([NAN, NAN]), "nothing is scored"),
        (rng(0).random(12), "too few: 12 independent values, 20 needed"),
        (np.full(60, 0.3), "too alike: 0 of 60 differ from the rest, 6 needed"),
        (np.repeat([0, 0.5], [55, 5]), "too alike: 5 of 60 differ from the rest, 6 needed"),
        (np.repeat([1, 0.2, 0.4], [55, 3, 2]), "too alike: 5 of 60 differ from the rest, 6 needed"),
    ],
)
def test_where_an_interval_can_not_be_told_the_reason_is(values: Values, reason: str) -> None:
    found = assess(values)
    assert (found.interval, found.no_interval) == (None, reason)
    assert stats.intervals95(values[:, None]) == [None]
    [bounds] = stats.mean_bounds(values[:, None])
    assert bounds == (None, reason)


def test_one_question_asked_by_all_is_no_sample() -> None:
    assert (
        assess(rng(2).random(60), np.repeat(np.arange(5), 12)).no_interval == "too few: 5 independent values, 20 needed"
    )


def test_a_cluster_that_has_most_of_the_values_is_not_many() -> None:
    clusters = np.concatenate([np.zeros(200, dtype=int), np.arange(1, 41)])
    assert assess(rng(2).random(240), clusters).interval is None


def test_intervals_are_seeded_and_the_same_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = rng(4).random(50)
    whole = interval_of(values, seed=7)
    assert whole == interval_of(values, seed=7) != interval_of(values, seed=8)
    monkeypatch.setattr(stats, "_BLOCK_VALUES", 5_000)
    assert interval_of(values, seed=7) == pytest.approx(whole)


def test_columns_together_are_as_alone() -> None:
    values = rng(5).random((60, 4))
    values[[3, 8], 1] = NAN
    values[:, 3] = NAN
    together = stats.paired_tests(values)
    for column in range(3):
        alone = assess(values[~np.isnan(values[:, column]), column])
        assert together[column].p == alone.p
        assert together[column].interval == pytest.approx(alone.interval)
    assert together[3] == (None, None, "nothing is scored")


@pytest.mark.parametrize("k", [0, 3, 20])
def test_a_column_of_zeros_and_ones_has_the_interval_of_a_share(k: int) -> None:
    values = (np.arange(20) < k).astype(float)
    expected = scipy.stats.binomtest(k, 20).proportion_ci(method="wilson")
    [shares, none] = stats.mean_bounds(np.stack([values, np.full(20, NAN)], axis=1))
    assert shares.interval
    assert shares.interval[:2] == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert shares.interval.method == "wilson"
    assert none.interval is None


LITTLE = st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.5, 0.1 + 0.2 - 0.3])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-1e3, 1e3), LITTLE), min_size=13, max_size=40)
    | st.lists(LITTLE, min_size=13, max_size=60),
    st.integers(0, 3),
)
def test_an_interval_excludes_0_if_and_only_if_p_is_at_most_05(values: list[float], per_cluster: int) -> None:
    column = np.array(values)
    clusters = np.arange(len(values)) // (1 + per_cluster)
    with mock.patch.object(stats, "N_RESAMPLES", 500):
        found = assess(column, clusters)
    if found.interval and found.p is not None:
        low, high, _ = found.interval
        assert math.isfinite(low) and math.isfinite(high)
        assert low < high
        assert (low > 0 or high < 0) == (found.p <= 0.05)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=13, max_size=30), st.sampled_from([0.001, 7.0, -3.0])
)
def test_a_unit_and_a_sign_change_nothing(values: list[float], factor: float) -> None:
    with mock.patch.object(stats, "N_RESAMPLES", 500):
        found, scaled = assess(np.array(values)), assess(factor * np.array(values))
    assert scaled.p == found.p
    if found.interval:
        assert scaled.interval
        ends = sorted(factor * end for end in found.interval[:2])
        assert scaled.interval[:2] == pytest.approx(ends, abs=1e-5 * abs(factor))


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


def test_beyond_twelve_random_signs_come_close_to_all() -> None:
    differences = np.stack([scipy.stats.norm.ppf(np.linspace(0.01, 0.99, 40)) + by for by in (0.1, 0.3, 0.5)], axis=1)
    for column, drawn in zip(differences.T, stats.permutation_test(differences), strict=True):
        theirs = scipy.stats.permutation_test(
            (column, np.zeros(40)),
            lambda a, b: np.mean(a - b),
            permutation_type="samples",
            n_resamples=10_000,
            rng=rng(9),
        )
        assert drawn == pytest.approx(theirs.pvalue, abs=0.03)


def test_ties_and_wins_of_equal_size_have_the_sign_tests_p() -> None:
    differences = np.array([1.0] * 9 + [-1.0] * 2 + [0.0])
    [p] = stats.permutation_test(differences[:, None])
    assert p == pytest.approx(scipy.stats.binomtest(2, 11).pvalue, abs=1e-12)


def test_beyond_twelve_of_results_as_far_half_are_counted() -> None:
    """The sign test's mid-p: 2 losses of 11 beside 49 ties."""
    differences = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 49)
    exact = scipy.stats.binom(11, 0.5)
    [p] = stats.permutation_test(differences[:, None])
    assert p == pytest.approx(2 * exact.cdf(1) + exact.pmf(2), abs=0.01)


@pytest.mark.parametrize(("wins", "p"), [(3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_wins_alone_among_many_ties_have_the_sign_tests_p(wins: int, p: float) -> None:
    """Five wins are never significant, however many questions are tied."""
    differences = np.concatenate([rng(wins).random(wins), np.full(60 - wins, 0.1 + 0.2 - 0.3)])
    assert stats.permutation_test(differences[:, None]) == [pytest.approx(p, abs=0.008)]


def test_one_cluster_shows_nothing() -> None:
    assert stats.permutation_test(np.array([[0.7]])) == [1.0]


def test_no_difference_and_no_values() -> None:
    nothing = np.stack([np.zeros(40), np.full(40, NAN)], axis=1)
    assert stats.permutation_test(nothing) == [1.0, None]


@pytest.mark.slow
def test_p_is_uniform_where_there_is_no_difference() -> None:
    differences = rng(10).laplace(0, 1, (60, 600))
    p_values = [p for p in stats.permutation_test(differences) if p is not None]
    assert len(p_values) == 600
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.001


@pytest.mark.slow
def test_p_is_uniform_where_clusters_hide_that_there_is_none() -> None:
    """Three copies of each difference: taken for independent, far too many p would be small."""
    differences = np.repeat(rng(11).normal(0, 1, (40, 600)), 3, axis=0)
    clusters = np.repeat(np.arange(40), 3)
    p_values = [p for p in stats.permutation_test(differences, clusters) if p is not None]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.001
    naive = [p for p in stats.permutation_test(differences) if p is not None]
    assert scipy.stats.kstest(naive, "uniform").pvalue < 1e-6


# --- all pairs --------------------------------------------------------------------------------------------------------


def test_of_two_columns_the_adjusted_p_is_the_tests_own() -> None:
    values = rng(1).random((60, 2))
    values[[2, 9], 0] = NAN
    [p] = stats.permutation_test(values[:, :1] - values[:, 1:])
    adjusted = stats.compare_all(values)
    assert adjusted[0, 1] == adjusted[1, 0] == p
    assert np.isnan(np.diag(adjusted)).all()


@pytest.mark.parametrize("n", [6, 9])
def test_adjusted_p_by_hand(n: int) -> None:
    """Step-down max-T of |t| over all patterns of signs, written out."""
    values = rng(n).normal([1.5, 0.4, 0], 1, (n, 3))
    pairs = list(itertools.combinations(range(3), 2))
    differences = np.stack([values[:, i] - values[:, j] for i, j in pairs], axis=1)
    signs = np.array(list(itertools.product([1, -1], repeat=n)))
    flipped = np.abs(scipy.stats.ttest_1samp(signs[:, :, None] * differences, 0, axis=1).statistic)
    observed = np.abs(scipy.stats.ttest_1samp(differences, 0).statistic)
    expected, largest = np.zeros(3), 0.0
    order = np.argsort(-observed)
    for place, pair in enumerate(order):
        largest = max(largest, (flipped[:, order[place:]].max(axis=1) >= observed[pair] - 1e-9).mean())
        expected[pair] = largest
    adjusted = stats.compare_all(values)
    assert [adjusted[pair] for pair in pairs] == pytest.approx(expected, abs=1e-12)


def test_adjusted_p_is_at_least_the_tests_own_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = rng(3).normal(0, 1, (40, 6)) + np.linspace(0, 1, 6)
    values[:10, 2] = NAN
    clusters = np.arange(40) // 2
    adjusted = stats.compare_all(values, clusters)
    for i, j in itertools.combinations(range(6), 2):
        [own] = stats.permutation_test((values[:, i] - values[:, j])[:, None], clusters)
        assert own is not None
        assert own <= adjusted[i, j] + 0.01  # signs of their own where rows are missing
    monkeypatch.setattr(stats, "_CHUNK_COLUMNS", 4)
    assert stats.compare_all(values, clusters) == pytest.approx(adjusted, nan_ok=True)


@pytest.mark.parametrize("in_clusters", [False, True])
@pytest.mark.parametrize("n", [25, 200])
def test_a_column_has_the_same_test_to_the_last_bit_whichever_are_tested_with_it(n: int, in_clusters: bool) -> None:
    values = rng(3).beta(2, 4, (n, 70))
    clusters = rng(4).integers(0, n // 2, n) if in_clusters else None
    together = stats.paired_tests(values, clusters)
    for some in (range(1), range(7, 8), range(3), range(5, 70)):
        assert stats.paired_tests(values[:, list(some)], clusters) == [together[column] for column in some]


@pytest.mark.parametrize("n", [9, 60])
def test_families_are_compared_as_if_each_was_alone(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    families = [rng(seed).normal(0, 1, (n, 2 + seed)) + np.linspace(0, 1, 2 + seed) for seed in range(4)]
    families[1][: n // 3, 0] = NAN
    families.append(np.full((n, 2), NAN))
    families.append(families[0])
    clusters = np.arange(n) // 2
    alone = [stats.compare_all(values, clusters) for values in families]
    together = stats.compare_families(families, clusters)
    monkeypatch.setattr(stats, "_FAMILIES", Memo(most=10))
    remembered = [stats.compare_families(families, clusters) for _ in range(2)][1]
    for expected, *found in zip(alone, together, remembered, strict=True):
        assert all(each == pytest.approx(expected, abs=1e-12, nan_ok=True) for each in found)
    assert stats.compare_families([]) == []


def test_differences_that_are_tiny_beside_the_figures_are_compared_as_well() -> None:
    """Sums of figures would be too coarse to take them from each other."""
    values = np.round(rng(5).random((80, 4)), 3)
    values[:, 3] = values[:, 0]
    assert stats.compare_all(values + 4096) == pytest.approx(stats.compare_all(values), abs=1e-12, nan_ok=True)
    nearly = np.stack([values[:, 0], values[:, 0] + 1e-14 * (np.arange(80) % 2), values[:, 1]], axis=1)
    [own] = stats.permutation_test(nearly[:, :1] - nearly[:, 1:2])
    assert own is not None and own <= stats.compare_all(nearly)[0, 1] <= 1


def test_columns_that_share_no_row_are_not_compared() -> None:
    values = np.array([[1.0, NAN, 2], [NAN, 1, 3]] * 10)
    assert np.isnan(stats.compare_all(values)).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]


# --- shares, adjustment, power ----------------------------------------------------------------------------------------


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
    assert stats.share95(np.ones(6), np.array([0, 0, 0, 0, 1, 1])) is None
    assert stats.share95(np.concatenate([np.ones(200), np.zeros(30)]), np.r_[np.zeros(200, int), 1:31]) is None
    few = (scipy.stats.norm.isf(0.025) / scipy.stats.t.isf(0.025, 7)) ** 2
    half = stats.share95(np.array([0.0, 1.0] * 8), np.repeat(np.arange(8), 2))
    assert half == pytest.approx(stats.wilson95(0.5, 8 * few), abs=1e-4)


def test_a_share_of_few_clusters_is_of_draws_by_t() -> None:
    """Ten clusters of ten, by Korn and Graubard's formula."""
    ones = np.array([2, 9, 4, 7, 1, 8, 5, 3, 6, 10])
    values = np.concatenate([np.r_[np.ones(k), np.zeros(10 - k)] for k in ones])
    share, variance = ones.sum() / 100, ((ones / 10 - ones.sum() / 100) ** 2).sum() / 100
    few = (scipy.stats.norm.isf(0.025) / scipy.stats.t.isf(0.025, 9)) ** 2
    expected = stats.wilson95(share, share * (1 - share) / variance * few)
    assert stats.share95(values, np.repeat(np.arange(10), 10)) == pytest.approx(expected, abs=1e-4)


def test_unequal_clusters_have_no_interval_and_the_reason() -> None:
    """One of 5,000 and 20 single ones are worth hardly more than one."""
    clusters = np.r_[np.zeros(5000, int), 1:21]
    values = np.r_[np.zeros(5000), 0, rng(1).normal(1, 1, 19)]
    [test] = stats.paired_tests(values[:, None], clusters)
    assert test.interval is None and test.no_interval == "too unequal: 21 queries are worth 1.0 equal ones, 15 needed"
    assert "21 are worth 1.0" in str(stats.why_undetectable(values, clusters))


def test_a_figure_that_can_exceed_1_is_no_share() -> None:
    [share] = stats.mean_bounds(np.zeros((30, 1)))
    [ratio] = stats.mean_bounds(np.zeros((30, 1)), unbounded=[0])
    assert share.interval and share.interval.method == "wilson"
    assert ratio.interval is None and "too alike" in str(ratio.no_interval)


@pytest.mark.slow
def test_the_interval_of_a_share_holds_where_users_are_alike_in_themselves() -> None:
    """200 users of 1 to 20 answers each, each liking as often as drawn from Beta(.4, 1.6): a mean of .2."""
    drawn = rng(5)
    held, held_naively = 0, 0
    for _ in range(400):
        sizes = drawn.integers(1, 21, 200)
        clusters = np.repeat(np.arange(200), sizes)
        values = (drawn.random(len(clusters)) < drawn.beta(0.4, 1.6, 200)[clusters]).astype(float)
        low, high = stats.share95(values, clusters) or (1.0, 0.0)
        held += low <= 0.2 <= high
        low, high = stats.share95(values) or (1.0, 0.0)
        held_naively += low <= 0.2 <= high
    assert 0.92 <= held / 400 <= 0.98
    assert held_naively / 400 < 0.8


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_the_detectable_difference_of_many_is_cohens() -> None:
    assert stats.detectable_difference(1.0, 100_000) == pytest.approx(1.959964 + 0.841621, abs=1e-3)
    assert stats.detectable_difference(0.02, 60) == pytest.approx(0.02 * (stats.detectable_difference(1, 60) or 0))


@pytest.mark.parametrize(
    ("n", "level", "margin"),
    [(10, 50 / 1024, 3 / 40), (12, 102 / 2048, 1 / 16), (20, 0.05, 1 / 15), (60, 0.05, 1 / 45)],
)
def test_the_detectable_difference_of_few_has_the_power_of_t(n: int, level: float, margin: float) -> None:
    """At the level that the signs can have, less the margin: scipy's noncentral t."""
    found = stats.detectable_difference(1.0, n)
    assert found
    critical = scipy.stats.t.isf(level / 2, n - 1)
    assert scipy.stats.nct.sf(critical, n - 1, found / (1 + margin)) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("n", "is_nothing"), [(2, True), (5, True), (6, False), (7, False)])
def test_what_so_few_could_show_is_not_told(n: int, is_nothing: bool) -> None:
    assert stats.detectable_difference(0.1, n) is None
    reason = stats.why_undetectable(rng(n).random(n))
    assert reason
    assert ("nothing can be shown" in reason) == is_nothing
    assert str(n) in reason


def test_differences_in_five_questions_can_not_show_anything() -> None:
    few, enough = (np.concatenate([rng(k).random(k), np.zeros(60 - k)]) for k in (5, 6))
    assert stats.why_undetectable(few) == "nothing can be shown: 5 of 60 differ, 6 are needed"
    assert stats.why_undetectable(enough) is None
    assert stats.why_undetectable(enough, np.arange(60) // 3) == "nothing can be shown: 2 of 20 differ, 6 are needed"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendalls_tau_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    ours = stats.kendall_tau(first, second)
    theirs = scipy.stats.kendalltau(first, second).statistic
    assert ours is None if np.isnan(theirs) else ours == pytest.approx(theirs, abs=1e-12)
