"""The difference of two groups: as Welch's for single rows, wider for clusters, and it holds the truth."""

from __future__ import annotations

import numpy as np
import pytest

from qilin_rag.core.unpaired import unpaired_differences


def test_single_rows_are_as_welchs() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.5, 0.2, 150), rng.normal(0.4, 0.4, 400)
    values = np.concatenate([first, second])
    is_first = np.arange(550) < 150
    order = rng.permutation(550)
    [found] = unpaired_differences(values[order, None], is_first[order], np.arange(550))
    welch = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert found is not None and found.interval is not None
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert (found.n_first, found.n_second) == (150, 400)
    assert found.interval.low == pytest.approx(welch.low, abs=0.004)
    assert found.interval.high == pytest.approx(welch.high, abs=0.004)


def test_missing_values_and_small_groups() -> None:
    rng = np.random.default_rng(1)
    values = rng.random((60, 3))
    is_first = np.arange(60) % 2 == 0
    values[:, 1] = np.where(is_first, np.nan, values[:, 1])  # a group without a value
    values[40:, 2] = np.nan
    whole, none, few = unpaired_differences(values, is_first, np.arange(60))
    assert whole is not None and whole.interval is not None and none is None
    assert few is not None and (few.n_first, few.n_second) == (20, 20) and few.interval is not None
    [fewer] = unpaired_differences(values[:, :1], np.arange(60) < 19, np.arange(60))
    assert fewer is not None and fewer.interval is None
    assert fewer.no_interval == "19 and 41 clusters in the groups: 20 of each are needed at least"
    assert unpaired_differences(np.zeros((0, 2)), np.zeros(0, bool), np.zeros(0, np.intp)) == [None, None]


def test_copies_of_a_cluster_are_one_piece_of_evidence() -> None:
    rng = np.random.default_rng(2)
    values, is_first = rng.random(80), np.arange(80) < 40
    [once] = unpaired_differences(values[:, None], is_first, np.arange(80))
    [often] = unpaired_differences(np.tile(values, 5)[:, None], np.tile(is_first, 5), np.tile(np.arange(80), 5))
    assert once is not None and often is not None and once.interval is not None and often.interval is not None
    assert often.value == pytest.approx(once.value)
    assert often.interval.low == pytest.approx(once.interval.low, abs=0.01)
    assert often.interval.high == pytest.approx(once.interval.high, abs=0.01)


def test_the_interval_holds_the_truth() -> None:
    """200 draws of skewed figures in clusters that are in both groups; 178 of 200 or fewer: p = .001 at 95%."""
    rng = np.random.default_rng(3)
    clusters, is_first = rng.integers(0, 80, 160), rng.random(160) < 0.4
    own = rng.random((80, 200)) ** 3
    values = own[clusters] + rng.random((160, 200)) ** 2 + np.where(is_first, 0.1, 0.0)[:, None]
    held = 0
    for found in unpaired_differences(values, is_first, clusters):
        assert found is not None and found.interval is not None
        held += found.interval.low <= 0.1 <= found.interval.high
    assert held > 178
