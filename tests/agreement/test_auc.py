"""AUC equals scipy's Mann-Whitney U and a count of pairs; the detectable AUC is found four times in five."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from qilin_rag.agreement.auc import auc, detectable_auc, quantile_strata
from qilin_rag.core.stats import Booleans, Clusters, Values


def flagged(seed: int, n: int = 80) -> tuple[Values, Booleans, Clusters]:
    """Return scores with ties, flags that follow them, and strata."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 8, n) / 8
    return scores, rng.random(n) < 0.2 + 0.5 * scores, rng.integers(0, 3, n)


def counted(scores: Values, flags: Booleans, strata: Clusters) -> float:
    pairs = [
        (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
        for i in np.flatnonzero(flags)
        for j in np.flatnonzero(~flags)
        if strata[i] == strata[j]
    ]
    return float(np.mean(pairs))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_share_of_pairs(seed: int) -> None:
    scores, flags, strata = flagged(seed)
    theirs = mannwhitneyu(scores[flags], scores[~flags]).statistic / (flags.sum() * (~flags).sum())
    assert auc(scores, flags).value == pytest.approx(theirs, abs=1e-9)
    assert auc(scores, flags, strata=strata).value == pytest.approx(counted(scores, flags, strata), abs=1e-9)


def test_the_interval_is_about_hanley_and_mcneils_for_independent_answers() -> None:
    rng = np.random.default_rng(0)
    flags = np.arange(400) < 200
    found = auc(rng.normal(size=400) + flags, flags)
    assert found.value is not None and found.ci95 is not None
    a = found.value
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    stderr = ((a * (1 - a) + 199 * (q1 - a * a) + 199 * (q2 - a * a)) / 200**2) ** 0.5
    assert found.ci95[1] - found.ci95[0] == pytest.approx(2 * 1.96 * stderr, rel=0.12)


def test_answers_of_one_user_are_drawn_together() -> None:
    scores, flags, _ = flagged(1, 200)
    users = np.arange(200)
    alone = auc(scores, flags, users).ci95
    copied = auc(np.tile(scores, 4), np.tile(flags, 4), np.tile(users, 4)).ci95
    assert alone is not None and copied == pytest.approx(alone, abs=1e-9)


def test_length_alone_explains_nothing_within_its_strata() -> None:
    rng = np.random.default_rng(2)
    length = np.repeat([10.0, 20.0, 30.0], 100)
    flags = rng.random(300) < length / 40
    assert auc(length, flags).value > 0.65  # type: ignore[operator]
    assert auc(length, flags, strata=quantile_strata(length.tolist(), 3)).value == 0.5


@pytest.mark.parametrize("flags", [[True, True, True], [False, False, False], []])
def test_flags_of_one_kind_have_none(flags: list[bool]) -> None:
    found = auc(np.arange(float(len(flags))), np.array(flags, dtype=bool))
    assert (found.value, found.ci95) == (None, None)
    assert found.reason


def test_strata_are_about_equal_and_keep_ties_together() -> None:
    assert np.bincount(quantile_strata(list(range(100)), 4)).tolist() == [25, 25, 25, 25]
    assert len(set(quantile_strata([7.0] * 10, 4).tolist())) == 1
    assert quantile_strata([]).tolist() == []


def test_the_detectable_auc_is_found_four_times_in_five() -> None:
    """Scores are normal; an AUC of A is a shift of sqrt(2) times the normal quantile of A."""
    from statistics import NormalDist

    found = detectable_auc(40, 120).value
    assert found is not None
    rng = np.random.default_rng(3)
    shift = 2**0.5 * NormalDist().inv_cdf(found)
    p = mannwhitneyu(rng.normal(shift, 1, (1000, 40)), rng.normal(0, 1, (1000, 120)), axis=1).pvalue
    assert 0.76 < (p <= 0.05).mean() < 0.86


@pytest.mark.parametrize(("n_flagged", "n_others"), [(0, 10), (10, 0), (2, 2)])
def test_too_few_flags_detect_nothing(n_flagged: int, n_others: int) -> None:
    found = detectable_auc(n_flagged, n_others)
    assert found.value is None and found.reason


def test_more_flags_detect_less() -> None:
    values = [detectable_auc(n, 4 * n).value or 1 for n in (10, 40, 160, 2560)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.52
