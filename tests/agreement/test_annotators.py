"""Kappa equals statsmodels', alpha the figures that Krippendorff printed and the package of that name."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa as their_kappa

from qilin_rag.agreement.annotators import Level, cohens_kappa, krippendorff_alpha

NO = np.nan
PRINTED = np.array(  # Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section D
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
        [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
    ]
)
LEVELS: list[tuple[Level, float]] = [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]


@pytest.mark.parametrize("is_ordinal", [False, True])
def test_kappa_is_that_of_statsmodels(is_ordinal: bool) -> None:
    random = Random(1)
    for n_values in (2, 3, 5):
        pairs = [(random.randrange(n_values), random.choice([0, random.randrange(n_values)])) for _ in range(60)]
        table = np.zeros((n_values, n_values))
        for one, other in pairs:
            table[one, other] += 1
        theirs = their_kappa(table, weights=np.arange(n_values), wt="quadratic") if is_ordinal else their_kappa(table)
        assert cohens_kappa(pairs, is_ordinal) == pytest.approx(theirs.kappa, abs=1e-9)
    assert cohens_kappa([(1, 1), (1, 1)], is_ordinal) is None


def test_nobody_s_kappa_is_none() -> None:
    assert cohens_kappa([]) is None


@pytest.mark.parametrize(("level", "alpha"), LEVELS)
def test_alpha_is_krippendorffs(level: Level, alpha: float) -> None:
    assert krippendorff_alpha(PRINTED, level) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("level", [level for level, _ in LEVELS])
def test_alpha_is_that_of_the_package(level: Level) -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="needs qilin-rag[test]")
    rng = np.random.default_rng(1)
    for n_annotators in (2, 3, 6):
        ratings = np.clip(rng.integers(-2, 3, 40) + rng.integers(-1, 2, (n_annotators, 40)), -2, 2).astype(float)
        ratings[rng.random(ratings.shape) < 0.3] = np.nan
        theirs = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
        assert krippendorff_alpha(ratings, level) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("ratings", [[[1, 1], [1, 1]], [[1, NO], [NO, 2]], [[1, 2, 3]], [[NO], [NO]]])
def test_nothing_to_agree_on_is_none(ratings: list[list[float]]) -> None:
    assert krippendorff_alpha(np.array(ratings, dtype=float)) is None
