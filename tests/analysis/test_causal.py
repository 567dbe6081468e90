"""Matching and double robustness against statsmodels, published values, and data whose effect is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis import causal
from qilin_rag.analysis.causal import Estimate
from qilin_rag.errors import UsageError

Floats = npt.NDArray[np.float64]


def confounded(seed: int, n: int = 600, effect: float = -0.5) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    """Covariates, treatment and outcome: the first covariate makes both likelier."""
    rng = np.random.default_rng(seed)
    covariates = rng.normal(size=(n, 3))
    treated = rng.random(n) < 1 / (1 + np.exp(0.8 - covariates[:, 0]))
    outcome = 2 + 1.5 * covariates[:, 0] + 0.5 * covariates[:, 1] + effect * treated + rng.normal(size=n)
    return covariates, treated, outcome


def estimate(seed: int, effect: float = -0.5) -> tuple[Estimate, Estimate]:
    covariates, treated, outcome = confounded(seed, effect=effect)
    groups = np.arange(len(treated)) // 2
    propensity = causal.propensities(covariates, treated, groups, seed)
    predicted = causal.untreated_outcomes(covariates, outcome, treated, groups, seed)
    robust = causal.doubly_robust(outcome, predicted, propensity, treated, groups)
    return causal.naive(outcome, treated, groups), robust


def test_intervals_cover_what_is_true_and_the_naive_ones_do_not() -> None:
    """With an effect of 0 the same errors come about, so as many would be found where there is none."""
    found = [estimate(seed) for seed in range(120)]
    covered = np.mean([robust.low <= -0.5 <= robust.high for _, robust in found])
    assert 0.91 <= covered <= 0.99
    assert np.mean([naive.low <= -0.5 <= naive.high for naive, _ in found]) < 0.01
    assert all(naive.value > robust.value for naive, robust in found)
    shifted = estimate(0, effect=0.0)[1]
    assert shifted.value == pytest.approx(found[0][1].value + 0.5) and shifted.high - shifted.low == pytest.approx(
        found[0][1].high - found[0][1].low
    )


@pytest.mark.parametrize("wrong", ["propensity", "outcome"])
def test_one_right_model_is_enough(wrong: str) -> None:
    covariates, treated, outcome = confounded(1, n=60_000)
    propensity = 1 / (1 + np.exp(0.8 - covariates[:, 0]))
    predicted = 2 + 1.5 * covariates[:, 0] + 0.5 * covariates[:, 1]
    if wrong == "propensity":
        propensity = np.full(len(treated), 0.3)
    else:
        predicted = np.zeros(len(treated))
    robust = causal.doubly_robust(outcome, predicted, propensity, treated, np.arange(len(treated)))
    assert abs(robust.value + 0.5) < 1.5 * (robust.high - robust.low) / 2 < 0.1  # three standard errors


def test_weights_as_statsmodels() -> None:
    """Without outcome models AIPW is weighting by the odds, which statsmodels has, normalised."""
    from statsmodels.discrete.discrete_model import Logit
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant
    from statsmodels.treatment.treatment_effects import TreatmentEffect

    covariates, treated, outcome = confounded(2, n=3000)
    selection = Logit(treated.astype(float), add_constant(covariates)).fit(disp=0)
    theirs = TreatmentEffect(OLS(outcome, add_constant(covariates)), treated.astype(float), results_select=selection)
    expected = float(theirs.ipw(return_results=False, effect_group=1)[0])
    propensity = selection.predict()
    weight = causal.weights(propensity, treated)
    ours = causal.doubly_robust(outcome, np.zeros(len(outcome)), propensity, treated, np.arange(len(outcome)))
    assert ours.value == pytest.approx(expected, rel=1e-9)
    balance = causal.standardised_differences(covariates, treated, weight)
    assert np.abs(balance).max() < 0.1 < np.abs(causal.standardised_differences(covariates, treated)).max()


def test_standardised_differences_by_hand() -> None:
    covariates = np.array([[1.0, 5.0], [3.0, 5.0], [0.0, 5.0], [2.0, 5.0], [7.0, 5.0]])
    treated = np.array([True, True, False, False, False])
    # means 2 and 3; variances 1 and 26/3
    found = causal.standardised_differences(covariates, treated)
    assert found.tolist() == pytest.approx([-1 / np.sqrt((1 + 26 / 3) / 2), 0])


def test_too_few_users_are_one_line() -> None:
    covariates, treated, _ = confounded(0)
    with pytest.raises(UsageError, match="searches of 4 users: 5 are needed"):
        causal.propensities(covariates, treated, np.arange(len(treated)) % 4)


def test_what_tells_both_sides_apart_is_not_balanced() -> None:
    treated = np.array([True, True, False, False])
    assert causal.standardised_differences(treated[:, None].astype(float), treated).tolist() == [2]


def test_matches_are_the_nearest_within_the_caliper_and_used_once() -> None:
    rng = np.random.default_rng(3)
    treated = rng.random(400) < 0.3
    propensity = np.where(treated, rng.uniform(0.2, 0.9, 400), rng.uniform(0.05, 0.6, 400))
    found = causal.match(propensity, treated)
    logit = np.log(propensity / (1 - propensity))
    assert treated[found.treated].all() and not treated[found.untreated].any()
    assert len(set(found.untreated.tolist())) == len(found.untreated) > 50
    assert np.abs(logit[found.treated] - logit[found.untreated]).max() <= 0.2 * logit.std()
    first = found.treated[0]
    distances = np.abs(logit[~treated] - logit[first])
    assert abs(logit[found.untreated[0]] - logit[first]) == pytest.approx(distances.min())
    left_out = set(np.flatnonzero(treated).tolist()) - set(found.treated.tolist())
    assert left_out and min(propensity[list(left_out)]) > 0.5  # none is near these


def test_the_matched_effect_by_hand() -> None:
    outcome = np.array([3.0, 5.0, 1.0, 2.0])
    matches = causal.Matches(np.array([0, 1]), np.array([2, 3]))
    found = causal.matched(outcome, matches, np.arange(4))
    assert found is not None
    assert found.value == 2.5 and (found.treated, found.untreated) == (4, 1.5)
    assert found.high - found.value == pytest.approx(1.959964 * np.std([2, 3], ddof=1) / np.sqrt(2))
    assert causal.matched(outcome, causal.Matches(np.array([0]), np.array([2])), np.arange(4)) is None


def test_groups_widen_the_interval_as_copies_should() -> None:
    _, treated, outcome = confounded(4)
    once = causal.naive(outcome, treated, np.arange(len(treated)))
    twice = [np.concatenate([values, values]) for values in (outcome, treated)]
    groups = np.concatenate([np.arange(len(treated))] * 2)
    again = causal.naive(twice[0], twice[1].astype(bool), groups)
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=1e-9)


def test_e_values_as_published() -> None:
    """VanderWeele and Ding (2017): a risk ratio of 3.9 (1.8 to 8.7) has E-values of 7.26 and 3.0."""
    found = causal.e_value(Estimate(value=3.9 - 1, low=3.9 - 3.9 / 1.8, high=3.5, treated=3.9, untreated=1.0))
    assert found is not None
    assert found[0] == pytest.approx(7.26, abs=0.005)
    assert found[1] == pytest.approx(3.0, abs=0.005)
    lower = causal.e_value(Estimate(value=1 - 3.9, low=-4, high=1 - 1.8, treated=1.0, untreated=3.9))
    assert lower is not None
    assert list(lower) == pytest.approx([7.26, 3.0], abs=0.005)
    nothing = causal.e_value(Estimate(value=0.1, low=-0.1, high=0.3, treated=1.0, untreated=0.9))
    assert nothing is not None and nothing[1] == 1
    assert causal.e_value(Estimate(value=-1, low=-2, high=-0.5, treated=0.0, untreated=1.0)) is None
