"""Intervals of agreement hold the truth in clustered worlds, and say why there is none."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from qilin_rag.agreement.correlations import KendallSums, pearson, pearsons, ratio
from qilin_rag.agreement.intervals import (
    AgreementFigure,
    Resampled,
    _jackknife,
    _t_critical,
    bundled,
    by_row,
    resample,
    with_interval,
)
from qilin_rag.agreement.pair_figures import Judgements, difference_error
from qilin_rag.core.stats import Clusters, Values, standard_error

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "agreement_coverage.py"


def of_pearson(x: Values, y: Values, *clusters: Clusters) -> AgreementFigure:
    return with_interval(pearson(x, y), by_row(lambda weights: pearsons(x, y, weights)), "correlation", *clusters)


def by_cluster(sums: KendallSums) -> Resampled:
    return lambda weights, clusters: sums.taus(weights)


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


@pytest.mark.slow
@pytest.mark.parametrize("clusters", ["user", "both"])
def test_they_hold_the_truth_in_clustered_worlds(clusters: str, benchmark: dict[str, Any]) -> None:
    """The benchmark has 1,000 worlds of each kind; these few show that nothing is broken."""
    size = benchmark["SIZES"][clusters][0]
    for found in benchmark["coverage"](clusters, size, 0.25, 60).values():
        assert found.holds >= 0.85


@pytest.mark.slow
def test_equal_measures_are_seldom_told_apart(benchmark: dict[str, Any]) -> None:
    assert max(benchmark["level"](100).values()) <= 0.12


def test_copies_of_a_question_add_no_certainty() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    alone = of_pearson(x, y, np.arange(60))
    copied = of_pearson(np.tile(x, 5), np.tile(y, 5), np.tile(np.arange(60), 5))
    assert alone.ci95 is not None and copied.ci95 == pytest.approx(alone.ci95, abs=1e-9)
    ignored = of_pearson(np.tile(x, 5), np.tile(y, 5), np.arange(300))
    assert ignored.ci95 is not None and ignored.ci95[1] - ignored.ci95[0] < (alone.ci95[1] - alone.ci95[0]) * 0.6


def test_bundles_of_questions_give_about_the_same_interval() -> None:
    rng = np.random.default_rng(2)
    questions = np.repeat(np.arange(300), 2)
    x = rng.normal(size=600)
    y = x + rng.normal(size=300)[questions] + rng.normal(size=600)
    widths = []
    for clusters in (questions, bundled(questions, 100)):
        sums = KendallSums(x, y, clusters)
        found = with_interval(sums.tau(), by_cluster(sums), "correlation", clusters)
        assert found.ci95 is not None
        widths.append(found.ci95[1] - found.ci95[0])
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
    assert np.array_equal(bundled(questions), questions) and bundled(np.arange(5_000)).max() < 1_000


def test_the_interval_is_about_fishers_for_independent_normal_rows() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400)
    found = of_pearson(x, y, np.arange(400))
    assert found.value is not None and found.ci95 is not None
    z, half = np.arctanh(found.value), 1.96 / np.sqrt(397)
    assert found.ci95 == pytest.approx((np.tanh(z - half), np.tanh(z + half)), abs=0.02)


def test_two_ways_are_at_least_as_wide_as_each() -> None:
    rng = np.random.default_rng(2)
    users, questions = rng.integers(0, 30, 200), rng.integers(0, 40, 200)
    x = rng.normal(size=30)[users] + rng.normal(size=40)[questions]
    y = x + rng.normal(size=30)[users] + rng.normal(size=40)[questions]

    def width(*clusters: Clusters) -> float:
        ends = of_pearson(x, y, *clusters).ci95
        assert ends is not None
        return ends[1] - ends[0]

    assert width(users, questions) >= max(width(users), width(questions)) * 0.99


def test_a_few_clusters_that_move_the_figure_make_the_interval_wider() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 60))
    even = np.array([*x, 2.0, -2.0]), np.array([*y, 2.0, 2.0])
    uneven = np.array([*x, 12.0, -12.0]), np.array([*y, 12.0, 12.0])
    widths = []
    for scores, labels in (even, uneven):
        ends = of_pearson(scores, labels, np.arange(62)).ci95
        assert ends is not None
        widths.append(ends[1] - ends[0])
    assert widths[1] > 1.5 * widths[0]


def test_the_jackknife_leaves_out_whole_clusters() -> None:
    x, y = np.random.default_rng(6).normal(size=(2, 90))
    clusters = np.arange(90) // 3 * 7
    without = np.array([pearson(x[clusters != each], y[clusters != each]) for each in np.unique(clusters)], float)
    found = _jackknife(by_row(lambda weights: pearsons(x, y, weights)), clusters)
    assert found.variance == pytest.approx(29 / 30 * np.square(without - without.mean()).sum(), abs=1e-12)
    of_mean = _jackknife(by_row(lambda weights: ratio(weights @ x, weights.sum(axis=1))), clusters)
    assert of_mean.variance**0.5 == pytest.approx(standard_error(x, clusters), abs=1e-12)


def test_few_clusters_of_unequal_sizes_have_the_variance_of_the_jackknife() -> None:
    """Resamples vary less there."""
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(20), np.arange(1, 21))
    x, y = rng.normal(size=(2, 20))[:, clusters] + 0.5 * rng.normal(size=(2, 210))

    def figure(weights: Values) -> Values:
        return pearsons(x, y, weights)

    of_draws = resample(by_row(figure), clusters).var(ddof=1) * 20 / 19
    jackknife = _jackknife(by_row(figure), clusters)
    assert jackknife.variance > 1.1 * of_draws
    found = of_pearson(x, y, clusters)
    assert found.value is not None and found.ci95 is not None
    half = (np.arctanh(found.ci95[1]) - np.arctanh(found.ci95[0])) / 2
    of_jackknife = t.ppf(0.975, jackknife.freedom) * jackknife.variance**0.5 / (1 - found.value**2)
    assert of_jackknife * 0.999 < half < of_jackknife * 1.02


def test_the_error_of_a_difference_is_its_spread_over_worlds() -> None:
    """The smallest difference that labels show is 2.8 of these errors."""
    rng = np.random.default_rng(8)
    differences, errors = [], []
    rows = Judgements(np.arange(120), np.zeros(120), np.arange(120) // 2)
    for _ in range(60):
        latent = rng.normal(size=60)[rows.queries]
        labels, one, other = (latent + rng.normal(0, 1, 120) for _ in "abc")
        differences.append((pearson(one, labels) or 0) - (pearson(other, labels) or 0))
        errors.append(difference_error(one, other, rows._replace(labels=labels), "pearson", seed=0))
    assert np.sqrt(np.mean(np.square(np.array(errors, float)))) == pytest.approx(np.std(differences), rel=0.25)


def test_the_critical_value_is_that_of_t() -> None:
    for freedom in (8, 12.5, 30, 400):
        assert _t_critical(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=1e-3)


def test_without_an_interval_there_is_a_reason() -> None:
    x = np.arange(30.0)
    noise = np.random.default_rng(3).normal(size=30)
    few = of_pearson(x[:10], noise[:10], np.arange(10))
    assert few.value is not None and few.ci95 is None and "10 independent" in str(few.reason)
    perfect = of_pearson(x, x, np.arange(30))
    assert perfect.value == pytest.approx(1.0) and perfect.ci95 is None and perfect.reason
    rare = of_pearson((x == 3).astype(float), noise, np.arange(30))
    assert rare.ci95 is None and "resamples" in str(rare.reason)
    constant = of_pearson(np.ones(30), noise, np.arange(30))
    assert (constant.value, constant.ci95) == (None, None) and constant.reason
