"""Soft pairwise accuracy is that of the paper's formula (arXiv 2409.09598), tau-AP that of TREC's AutoJudge."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from fractions import Fraction
from itertools import combinations, product
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from qilin_rag.agreement.systems import pairwise_p, soft_pairwise_accuracy, tau_ap


def slow_p(first: list[int], second: list[int], clusters: list[int]) -> Fraction:
    """Return the share of all exchanges between two systems after which the first is at least as far ahead."""
    ahead = sum(first) - sum(second)
    found = []
    for exchanges in product([False, True], repeat=len(set(clusters))):
        swapped = [exchanges[cluster] for cluster in clusters]
        one = sum(b if swap else a for a, b, swap in zip(first, second, swapped, strict=True))
        other = sum(a if swap else b for a, b, swap in zip(first, second, swapped, strict=True))
        found.append(one - other >= ahead)
    return Fraction(sum(found), len(found))


def slow_spa(people: list[list[int]], scores: list[list[int]], clusters: list[int]) -> float:
    differences = [
        abs(slow_p(people[i], people[j], clusters) - slow_p(scores[i], scores[j], clusters))
        for i, j in combinations(range(len(people)), 2)
    ]
    return float(1 - sum(differences) / len(differences))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_clustered", [True, False])
def test_spa_is_the_papers_with_ties(seed: int, is_clustered: bool) -> None:
    rng = np.random.default_rng(seed)
    people, scores = rng.integers(0, 3, (4, 7)), rng.integers(0, 4, (4, 7))
    clusters = [0, 0, 1, 2, 3, 3, 4] if is_clustered else list(range(7))
    found = soft_pairwise_accuracy(
        people / 10.0, scores / 3.0, np.array(clusters, dtype=np.intp) if is_clustered else None
    )
    assert found == pytest.approx(slow_spa(people.tolist(), scores.tolist(), clusters), abs=1e-9)


def test_spa_is_that_of_mt_metrics_eval() -> None:
    """Its pce.py (commit 1b47eab of google-research/mt-metrics-eval) drew 400,000 permutations; ours are all 1,024."""
    people = [
        [3, 2, 3, 3, 3, 0, 3, 2, 2, 2],
        [2, 1, 2, 1, 3, 2, 1, 0, 3, 2],
        [0, 2, 0, 0, 2, 1, 1, 0, 1, 2],
        [3, 0, 2, 0, 0, 1, 0, 1, 2, 0],
    ]
    scores = [
        [3, 1, 3, 2, 2, 0, 2, 3, 3, 3],
        [3, 0, 3, 1, 2, 1, 0, 0, 3, 3],
        [1, 1, 0, 0, 3, 2, 0, 0, 2, 3],
        [3, 0, 2, 0, 0, 0, 1, 1, 2, 1],
    ]
    theirs = [0.13652, 0.01595, 0.0156525, 0.038765, 0.058915, 0.5705675]
    labels, of_measure = (np.array(rows, dtype=np.float64) for rows in (people, scores))
    assert pairwise_p(labels)[np.triu_indices(4, 1)] == pytest.approx(theirs, abs=0.003)
    assert soft_pairwise_accuracy(labels, of_measure) == pytest.approx(0.92145875, abs=0.001)


def test_many_items_come_close_to_all_permutations() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 12))
    exact = pairwise_p(values)
    doubled = pairwise_p(np.repeat(values, 2, axis=1) / 2, np.repeat(np.arange(12), 2))
    drawn = pairwise_p(np.concatenate([values, np.zeros((3, 4))], axis=1))
    upper = np.triu_indices(3, 1)
    assert doubled[upper] == pytest.approx(exact[upper], abs=1e-12)
    assert drawn[upper] == pytest.approx(exact[upper], abs=0.03)
    assert np.isnan(exact[np.tril_indices(3)]).all()


def test_items_that_nobody_labelled_are_left_out() -> None:
    people = np.array([[1.0, 2.0, np.nan], [0.0, 1.0, 5.0]])
    assert soft_pairwise_accuracy(people, people) == 1.0
    assert soft_pairwise_accuracy(people[:1], people[:1]) is None
    nothing = np.full((2, 3), np.nan)
    assert soft_pairwise_accuracy(people, nothing) is None


def test_a_measure_that_tells_nothing_apart_has_no_accuracy() -> None:
    """By the formula each p is 1, so that it would agree with whoever ranks the systems as they are named."""
    people = np.arange(12.0).reshape(3, 4)
    per_item = np.tile([1.0, 2.0, 3.0, 4.0], (3, 1))
    assert soft_pairwise_accuracy(people, np.zeros((3, 4))) is None
    assert soft_pairwise_accuracy(people, per_item) is soft_pairwise_accuracy(per_item, people) is None


@pytest.fixture
def autojudge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of rank correlations alone: the package imports what only its commands need."""
    if (found := importlib.util.find_spec("autojudge_evaluate")) is None:
        pytest.skip("autojudge-evaluate is not installed (pip install --no-deps autojudge-evaluate)")
    package = ModuleType("autojudge_evaluate")
    package.__path__ = list(found.submodule_search_locations or [])
    monkeypatch.setitem(sys.modules, "autojudge_evaluate", package)
    return importlib.import_module("autojudge_evaluate.pyircore")


@pytest.mark.parametrize("seed", range(6))
def test_tau_ap_is_autojudges_with_ties(seed: int, autojudge: Any) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 5, 12).astype(float), rng.integers(0, 8, 12).astype(float)
    assert tau_ap(first, second) == pytest.approx(autojudge.tauap_b(first, second), abs=1e-9)


def test_tau_ap_without_ties_is_yilmaz_formula() -> None:
    """The share of the systems above each that belong there, from the second place down."""
    truth, ranking = [4, 3, 2, 1], [3, 4, 1, 2]

    def one_way(values: list[int], order: list[int]) -> float:
        ranked = sorted(range(4), key=lambda at: -order[at])
        shares = [sum(values[a] > values[ranked[place]] for a in ranked[:place]) / place for place in range(1, 4)]
        return 2 * sum(shares) / 3 - 1

    expected = (one_way(truth, ranking) + one_way(ranking, truth)) / 2
    assert tau_ap(np.array(truth, float), np.array(ranking, float)) == pytest.approx(expected, abs=1e-12)
    assert tau_ap(np.array(truth, float), -np.array(truth, float)) == -1.0


def test_tau_ap_of_equal_systems_is_none() -> None:
    assert tau_ap(np.ones(3), np.arange(3.0)) is None
    assert tau_ap(np.arange(1.0), np.arange(1.0)) is None
