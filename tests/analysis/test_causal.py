"""Matching and double robustness by hand, against statsmodels, and against published values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis import causal
from qilin_rag.analysis.causal import Estimate, doubly_robust, naive

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def confounded(seed: int, n: int = 600, effect: float = -0.5) -> tuple[Floats, Bools, Floats]:
    """Covariates, treatment and outcome: the first covariate makes both likelier."""
    rng = np.random.default_rng(seed)
    covariates = rng.normal(size=(n, 3))
    treated = rng.random(n) < 1 / (1 + np.exp(0.8 - covariates[:, 0]))
    outcome = 2 + 1.5 * covariates[:, 0] + 0.5 * covariates[:, 1] + effect * treated + rng.normal(size=n)
    return covariates, treated, outcome


def half_width(estimate: Estimate) -> float:
    assert estimate.low is not None and estimate.high is not None
    assert estimate.high - estimate.value == pytest.approx(estimate.value - estimate.low)
    return estimate.high - estimate.value


def test_the_doubly_robust_effect_by_hand() -> None:
    outcome = np.array([5.0, 3.0, 2.0, 4.0, 1.0])
    predicted = np.array([2.0, 1.0, 1.0, 2.0, 2.0])
    weight = np.array([1.0, 1.0, 3.0, 1.0, 0.0])
    treated = np.array([True, True, False, False, False])
    found = doubly_robust(outcome, predicted, weight, treated, np.arange(5))
    # residuals 3, 2 | 1, 2, -1: (3 + 2) / 2 - (3 * 1 + 1 * 2) / 4
    assert found.value == pytest.approx(2.5 - 1.25)
    assert found.treated == 4 and found.untreated == pytest.approx(4 - 1.25)


@pytest.mark.parametrize("wrong", ["weight", "outcome"])
def test_one_right_model_is_enough(wrong: str) -> None:
    covariates, treated, outcome = confounded(1, n=60_000)
    odds = np.exp(covariates[:, 0] - 0.8)
    predicted = 2 + 1.5 * covariates[:, 0] + 0.5 * covariates[:, 1]
    if wrong == "weight":
        odds = np.ones(len(treated))
    else:
        predicted = np.zeros(len(treated))
    robust = doubly_robust(outcome, predicted, np.where(treated, 1, odds), treated, np.arange(len(treated)))
    assert abs(robust.value + 0.5) < 1.5 * half_width(robust) < 0.1  # three standard errors


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
    weight = np.where(treated, 1, propensity / (1 - propensity))
    ours = doubly_robust(outcome, np.zeros(len(outcome)), weight, treated, np.arange(len(outcome)))
    assert ours.value == pytest.approx(expected, rel=1e-9)
    balance = causal.standardised_differences(covariates, treated, weight)
    assert np.abs(balance).max() < 0.1 < np.abs(causal.standardised_differences(covariates, treated)).max()


def test_errors_as_statsmodels_where_each_is_for_itself() -> None:
    """Leaving out one row at a time is HC3, but for (n - 1) / n; t has the degrees of freedom of the weights."""
    from scipy.stats import t
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    _, treated, outcome = confounded(5, n=80)
    theirs = OLS(outcome, add_constant(treated.astype(float))).fit(cov_type="HC3")
    ours = naive(outcome, treated, np.arange(80))
    assert ours.value == pytest.approx(theirs.params[1])
    n1, n0 = treated.sum(), (~treated).sum()
    worth = (1 / n1 + 1 / n0) ** 2 / (1 / n1**3 + 1 / n0**3)
    assert ours.effective_groups == pytest.approx(worth)
    assert half_width(ours) == pytest.approx(t.ppf(0.975, worth - 1) * theirs.bse[1] * np.sqrt(79 / 80))


def test_the_error_of_groups_is_that_of_leaving_each_out() -> None:
    from scipy.stats import t

    covariates, treated, outcome = confounded(6, n=120)
    groups = np.concatenate([np.repeat(np.arange(6), 12), np.arange(6, 54)])
    weight = np.where(treated, 1, np.exp(covariates[:, 0] - 0.8))
    predicted = covariates[:, 0]
    ours = doubly_robust(outcome, predicted, weight, treated, groups)
    without = []
    for group in np.unique(groups):
        kept = groups != group
        left = doubly_robust(outcome[kept], predicted[kept], weight[kept], treated[kept], groups[kept])
        without.append(left.value)
    n = len(without)
    error = np.sqrt((n - 1) / n * ((np.array(without) - np.mean(without)) ** 2).sum())
    assert ours.effective_groups is not None and 5 < ours.effective_groups < n
    assert half_width(ours) == pytest.approx(t.ppf(0.975, ours.effective_groups - 1) * error)


def test_groups_widen_the_interval_as_copies_should() -> None:
    _, treated, outcome = confounded(4)
    once = naive(outcome, treated, np.arange(len(treated)))
    groups = np.concatenate([np.arange(len(treated))] * 2)
    again = naive(np.tile(outcome, 2), np.tile(treated, 2), groups)
    assert again.value == pytest.approx(once.value)
    assert half_width(again) == pytest.approx(half_width(once), rel=1e-9)
    assert again.effective_groups == pytest.approx(once.effective_groups)


def test_few_groups_have_no_interval() -> None:
    """Four users with 97% of the searches are not worth five."""
    rng = np.random.default_rng(0)
    groups = np.concatenate([np.repeat(np.arange(4), 250), np.arange(4, 34)])
    treated, outcome = rng.random(len(groups)) < 0.4, rng.normal(size=len(groups))
    found = naive(outcome, treated, groups)
    assert found.effective_groups is not None and 4 < found.effective_groups < 5
    assert found.low is None and found.high is None
    assert half_width(naive(outcome, treated, np.arange(len(groups)) % 10)) > 0


def test_one_user_with_all_that_is_treated_has_no_interval() -> None:
    treated = np.arange(100) < 20
    found = naive(np.arange(100.0), treated, np.maximum(np.arange(100), 20))
    assert found.value == 9.5 - 59.5 and found.low is None


def test_standardised_differences_by_hand() -> None:
    covariates = np.array([[1.0, 5.0], [3.0, 5.0], [0.0, 5.0], [2.0, 5.0], [7.0, 5.0]])
    treated = np.array([True, True, False, False, False])
    # means 2 and 3; variances 1 and 26/3
    found = causal.standardised_differences(covariates, treated)
    assert found.tolist() == pytest.approx([-1 / np.sqrt((1 + 26 / 3) / 2), 0])


@pytest.mark.parametrize("value", [np.log1p(1), 0.1, 1e12 / 3, -7e-9])
def test_a_constant_differs_by_nothing(value: float) -> None:
    """The standard deviation of 57 times log1p(1) is 1e-16, not 0."""
    covariates = np.full((57, 1), value)
    treated = np.arange(57) < 20
    assert causal.standardised_differences(covariates, treated).tolist() == [0]


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


def test_the_matched_effect_by_hand_has_no_interval() -> None:
    outcome = np.array([3.0, 5.0, 1.0, 2.0])
    found = causal.matched(outcome, causal.Matches(np.array([0, 1]), np.array([2, 3])))
    assert found is not None
    assert found == (2.5, None, None, 4, 1.5, None)
    assert causal.matched(outcome, causal.Matches(np.array([0]), np.array([2]))) is None


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
    assert causal.e_value(Estimate(value=2.9, low=None, high=None, treated=3.9, untreated=1.0)) is None
    assert causal.e_value(Estimate(value=-1, low=-2, high=-0.5, treated=0.0, untreated=1.0)) is None


@pytest.mark.parametrize("n_others, is_enough", [(0, False), (1, False), (4, False), (5, True)])
def test_values_that_are_all_alike_have_no_interval(n_others: int, is_enough: bool) -> None:
    """Of 100 searches without an answer none was liked: that is no variance of 0."""
    outcome = np.concatenate([np.tile([0.0, 1.0], 20), np.arange(100) < n_others])
    found = causal.too_alike(outcome, np.arange(140) < 40)
    assert (found is None) == is_enough
    assert is_enough or (found is not None and f"100 searches without all but {n_others} have the value 0" in found)
