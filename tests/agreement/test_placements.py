"""What answers add makes up the AUC, and the test of two AUCs is about DeLong's and keeps its level with clusters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from qilin_rag.agreement.auc import auc
from qilin_rag.agreement.placements import additions, p_of_differences
from qilin_rag.core.stats import Booleans, Clusters, Values


def two_scores(seed: int, n: int = 160, gain: float = 0.0) -> tuple[Values, Values, Booleans, Clusters]:
    """Return two scores with ties that see what a flag depends on, the first better by `gain`; and strata."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=n)
    one, other = (np.round(latent * size + rng.normal(size=n), 1) for size in (0.7 + gain, 0.7))
    return one, other, latent + rng.normal(size=n) > 0.4, rng.integers(0, 3, n)


@pytest.mark.parametrize("seed", range(4))
def test_they_add_up_to_the_auc(seed: int) -> None:
    one, _, flags, strata = two_scores(seed)
    assert additions(one, flags, strata).sum() == pytest.approx(auc(one, flags, strata=strata).value, abs=1e-12)
    assert additions(one, flags, np.arange(160)).tolist() == [0] * 160
    turned = additions(-one, flags, strata).sum()
    assert turned == pytest.approx(1 - additions(one, flags, strata).sum(), abs=1e-12)


def delong(one: Values, other: Values, flags: Booleans) -> float:
    """DeLong's p of two AUCs, from the variances of the differences of placements."""
    wins = [(x[flags][:, None] > x[~flags]) + (x[flags][:, None] == x[~flags]) / 2 for x in (one, other)]
    differs = wins[0] - wins[1]
    variance = sum(differs.mean(axis=axis).var(ddof=1) / differs.shape[1 - axis] for axis in (0, 1))
    return float(2 * norm.sf(abs(differs.mean()) / variance**0.5))


@pytest.mark.parametrize(("seed", "gain"), [(0, 0.0), (1, 0.0), (2, 0.3), (3, 0.6)])
def test_p_is_about_delongs(seed: int, gain: float) -> None:
    one, other, flags, _ = two_scores(seed, 300, gain)
    ours, theirs = (additions(x, flags, np.zeros(300, dtype=np.intp)) for x in (one, other))
    [p] = p_of_differences((ours - theirs)[:, None], np.arange(300))
    assert p == pytest.approx(delong(one, other, flags), abs=0.03)


@pytest.mark.slow
def test_equally_good_scores_are_told_apart_in_5_of_100() -> None:
    """Of users with several answers each, whose latent values and noise have much in common."""
    rng, n_rejected = np.random.default_rng(0), 0
    users = np.repeat(np.arange(60), 4)
    for _ in range(200):
        latent = 0.8 * rng.normal(size=60)[users] + 0.6 * rng.normal(size=240)
        scores = [latent + 0.8 * rng.normal(size=60)[users] + 0.6 * rng.normal(size=240) for _ in "ab"]
        flags = latent + rng.normal(size=240) > 0.3
        ours, theirs = (additions(x, flags, np.zeros(240, dtype=np.intp)) for x in scores)
        n_rejected += p_of_differences((ours - theirs)[:, None], users)[0] <= 0.05
    assert 0.015 < n_rejected / 200 < 0.1


def test_columns_are_tested_as_if_each_were_alone() -> None:
    columns = []
    for seed, n_left_out in ((0, 0), (1, 40), (2, 40)):
        one, other, flags, strata = two_scores(seed, gain=0.3)
        column = additions(one, flags, strata) - additions(other, flags, strata)
        column[:n_left_out] = np.nan
        columns.append(column)
    users = np.arange(160) // 2
    alone = [p_of_differences(column[:, None], users, seed=4)[0] for column in columns]
    assert p_of_differences(np.stack(columns, axis=1), users, seed=4) == pytest.approx(alone, abs=1e-12)
