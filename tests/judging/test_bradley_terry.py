"""Ratings against a closed form, and against the likelihood itself, maximised by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_expit

from qilin_rag.core.ratings import Rating
from qilin_rag.judging.bradley_terry import Floats, log_strengths, rate


def games(*results: tuple[int, int, float], n_players: int) -> Floats:
    """One question a result: (i, j, what i scored)."""
    scores = np.zeros((len(results), n_players, n_players))
    for row, (i, j, score) in enumerate(results):
        scores[row, i, j], scores[row, j, i] = score, 1 - score
    return scores


def most_likely(wins: Floats) -> Floats:
    """By brute force: the logarithm of the likelihood, maximised."""

    def loss(logs: Floats) -> float:
        return -float((wins * log_expit(logs[:, None] - logs[None, :])).sum())

    best = minimize(loss, np.zeros(len(wins)), tol=1e-12, options={"gtol": 1e-9}).x
    centred: Floats = best - best.mean()
    return centred


def test_two_players_have_a_closed_form() -> None:
    logs = log_strengths(np.array([[0.0, 30.5], [10.0, 0.0]]))
    assert logs[0] - logs[1] == pytest.approx(np.log(30.5 / 10), abs=1e-9)
    rated = rate(games(*[(0, 1, 1.0)] * 7, *[(0, 1, 0.0)] * 2, (0, 1, 0.5), n_players=2))
    assert rated
    assert rated[0].value - rated[1].value == pytest.approx(400 * np.log10(8 / 3))
    assert rated[0].value + rated[1].value == pytest.approx(2000)


@pytest.mark.parametrize("seed", range(5))
def test_the_likelihood_has_its_maximum_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 20, size=(5, 5)).astype(np.float64) + 0.5
    np.fill_diagonal(wins, 0)
    if seed == 4:  # a chain: most pairs were never compared
        wins *= np.abs(np.subtract.outer(np.arange(5), np.arange(5))) == 1
    assert log_strengths(wins) == pytest.approx(most_likely(wins), abs=1e-5)


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    wins = np.random.default_rng(1).integers(1, 9, size=(7, 4, 4)).astype(float)
    assert log_strengths(wins) == pytest.approx(np.array([log_strengths(each) for each in wins]), abs=1e-8)


def test_undefeated_is_not_infinite() -> None:
    rated = rate(games(*[(0, 1, 1.0)] * 60, n_players=2))
    assert rated
    assert rated[0].value - rated[1].value == pytest.approx(400 * np.log10(60.5 / 0.5))
    assert (rated[0].ci95, rated[0].no_interval) == (None, "all results are the same")


def test_players_nobody_compared_have_no_ratings() -> None:
    assert rate(games((0, 1, 1.0), (2, 3, 1.0), n_players=4)) is None
    assert rate(np.zeros((3, 2, 2))) is None
    assert rate(games((0, 1, 1.0), (2, 3, 1.0), (1, 2, 1.0), n_players=4)) is not None


@pytest.mark.parametrize("n", [1, 12])
def test_so_few_questions_give_no_interval(n: int) -> None:
    rated = rate(games(*[(0, 1, float(q % 2)) for q in range(n)], n_players=2))
    assert rated
    assert all(each.ci95 is None and f"{n} independent questions" in (each.no_interval or "") for each in rated)


def widths(ratings: list[Rating] | None) -> list[float]:
    assert ratings
    return [each.ci95[1] - each.ci95[0] for each in ratings if each.ci95]


def test_copies_of_a_query_are_one_piece_of_evidence() -> None:
    rng = np.random.default_rng(3)
    scores = games(*[(0, 1, float(won)) for won in rng.random(100) < 0.6], n_players=2)
    once, copied = rate(scores), rate(np.repeat(scores, 4, axis=0), clusters=np.repeat(np.arange(100), 4))
    assert widths(copied) == pytest.approx(widths(once), rel=0.03)  # the half win added counts for less
    assert widths(rate(np.repeat(scores, 4, axis=0)))[0] < 0.6 * widths(once)[0]


def test_questions_in_clusters_of_their_own_are_rated_as_without() -> None:
    rng = np.random.default_rng(4)
    scores = games(*[(0, 1, float(won)) for won in rng.random(40) < 0.5], n_players=2)
    assert rate(scores, clusters=np.arange(40)) == rate(scores)
    shuffled = rng.permutation(40)
    clusters = np.arange(40) // 2
    one, other = rate(scores, clusters=clusters), rate(scores[shuffled], clusters=clusters[shuffled])
    assert widths(one) == pytest.approx(widths(other))


def test_intervals_are_seeded_and_hold_the_rating() -> None:
    rng = np.random.default_rng(5)
    results = [(0, 1, float(score)) for score in rng.choice([0, 0.5, 1], p=[0.3, 0.2, 0.5], size=200)]
    rated, again, other = (rate(games(*results, n_players=2), seed) for seed in (0, 0, 1))
    assert rated and other and rated == again != other
    for each in rated:
        assert each.ci95 and each.ci95[0] < each.value < each.ci95[1]


def test_the_interval_is_that_of_the_mean_score() -> None:
    """Of two players the rating is a monotone function of the mean score, and so are the ends of its interval."""
    results = [(0, 1, 1.0)] * 60 + [(0, 1, 0.0)] * 40
    rated = rate(games(*results, n_players=2))
    assert rated and rated[0].ci95
    wins = [101 / (1 + 10 ** (-(end - 1000) / 200)) - 0.5 for end in rated[0].ci95]  # both ratings move
    assert wins == pytest.approx([60 - 1.96 * np.sqrt(24), 60 + 1.96 * np.sqrt(24)], abs=1.5)


def test_questions_are_drawn_whole() -> None:
    """Two comparisons of one question are no two questions: the interval stays as wide."""
    results = [(0, 1, 1.0)] * 30 + [(0, 1, 0.0)] * 20
    scores = games(*results, n_players=3)
    scores[:, 0, 2], scores[:, 2, 0] = scores[:, 0, 1], scores[:, 1, 0]
    rated = rate(scores)
    assert rated and rated[1].ci95 and rated[2].ci95
    assert rated[1].value == pytest.approx(rated[2].value)
    assert rated[1].ci95 == pytest.approx(rated[2].ci95)
