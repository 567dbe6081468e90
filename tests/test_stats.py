from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from qilin_rag import stats


def test_standard_error_is_scipys() -> None:
    values = np.random.default_rng(1).beta(2, 5, 300)
    assert stats.standard_error(values) == pytest.approx(scipy.stats.sem(values), abs=1e-15)


def test_too_few_values_have_no_error() -> None:
    for few in (np.array([]), np.array([0.3])):
        assert stats.standard_error(few) is None
        assert stats.bootstrap_ci95(few) is None


def test_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(2).beta(2, 5, 200)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert stats.bootstrap_ci95(values) == pytest.approx((theirs.low, theirs.high), abs=1e-3)


def test_interval_is_seeded_and_the_same_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random(50)
    whole = stats.bootstrap_ci95(values, seed=7)
    assert whole == stats.bootstrap_ci95(values, seed=7) != stats.bootstrap_ci95(values, seed=8)
    monkeypatch.setattr(stats, "_BLOCK_VALUES", 5_000)
    assert stats.bootstrap_ci95(values, seed=7) == whole


def test_constant_values_have_a_point_interval() -> None:
    assert stats.bootstrap_ci95(np.full(10, 0.5)) == (0.5, 0.5)
