"""Functions of covariates: which columns say something, what is chosen, and what is balanced, trimmed and refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis.functions import Function, Functions, choose, distinct_columns
from qilin_rag.analysis.nuisance import Nuisances, fit_nuisances, folds
from qilin_rag.analysis.overlap import PROPENSITY, GroupsCompared, compare, refuse_groups
from qilin_rag.core.errors import UsageError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

N = 1000


def functions_of(seed: int = 0, n: int = N, **columns: Floats) -> Functions:
    rng = np.random.default_rng(seed)
    columns = {"a": rng.normal(size=n), "b": rng.normal(size=n), "is_c": (rng.random(n) < 0.3).astype(float)} | columns
    return Functions(list(columns), np.column_stack(list(columns.values())))


def test_columns_that_say_nothing_are_named() -> None:
    rng = np.random.default_rng(0)
    a, is_b = rng.normal(size=50), (rng.random(50) < 0.4).astype(float)
    columns = {
        "a": a,
        "one": np.full(50, np.log1p(1)),  # its standard deviation is 1e-16, not 0
        "scaled": 3 - 2 * a,
        "is_b": is_b,
        "is_not_b": 1 - is_b,
        "zero": np.zeros(50),
        "nearly": a + 0.01 * rng.normal(size=50),
        "tiny": 1e-5 * rng.normal(size=50),
    }
    kept, dropped = distinct_columns(list(columns), np.column_stack(list(columns.values())))
    assert [list(columns)[at] for at in kept] == ["a", "is_b", "nearly", "tiny"]
    assert dropped == {"one": "constant", "scaled": "same as a", "is_not_b": "same as is_b", "zero": "constant"}


def test_functions_by_hand() -> None:
    length = np.repeat([1.0, 2.0, 3.0], 40)
    functions = Functions(["length", "is_b"], np.column_stack([length, np.tile([0.0, 1.0], 60)]))
    assert functions.names == ["length", "is_b", "length squared", "length > 1", "length > 2"]
    squared = functions.take([Function(2)])[:, 0]
    expected = (length - 2) ** 2
    assert squared == pytest.approx((expected - expected.mean()) / expected.std(), abs=1e-6)
    assert functions.name(Function(1, 3)) == "is_b × (length > 1)"
    product = functions.take([Function(1, 3)])[:, 0]
    assert product == pytest.approx(functions.values[:, 1] * functions.values[:, 3], abs=1e-6)
    assert Functions(["x"], np.arange(60.0)[:, None], plain=["x"]).names == ["x"]


def test_moments_of_products_as_numpy() -> None:
    functions = functions_of()
    rows = np.arange(N) % 3 > 0
    weight = np.random.default_rng(1).random(N)
    found = functions.moments(rows, weight)
    product = functions.take([Function(1, 4)])[rows, 0]
    mean = np.average(product, weights=weight[rows])
    assert found.mean[1, 4] == pytest.approx(mean, abs=1e-5)
    assert found.variance[1, 4] == pytest.approx(np.average((product - mean) ** 2, weights=weight[rows]), rel=1e-4)


@pytest.mark.parametrize(
    "shape, expected",
    [
        (lambda a, b, c: a**2, {"a squared"}),
        (lambda a, b, c: 2.0 * (a > np.quantile(a, 0.8)), {"a > "}),
        (lambda a, b, c: a * b, {"a × b"}),
        (lambda a, b, c: b * c, {"b × is_c"}),
        (lambda a, b, c: 3.0 * ((a > 0) ^ (b > 0)), {"(a > ", "(b > "}),
        (lambda a, b, c: a + b - c, set()),  # the covariates as they are
        (lambda a, b, c: 0 * a, set()),
    ],
)
def test_the_functions_that_tell_are_chosen(shape: Callable[..., Floats], expected: set[str]) -> None:
    rng = np.random.default_rng(2)
    a, b, c = rng.normal(size=N), rng.normal(size=N), (rng.random(N) < 0.3).astype(float)
    functions = functions_of(a=a, b=b, is_c=c)
    names = [functions.name(each) for each in choose(functions, shape(a, b, c) + rng.normal(size=N), np.arange(N))]
    assert all(part in names[0] for part in expected) if expected else len(names) <= 1


def test_folds_never_split_a_group_and_are_alike() -> None:
    rng = np.random.default_rng(3)
    groups = np.concatenate([np.repeat(np.arange(5), 100), rng.integers(5, 100, 500)])
    treated = rng.random(N) < 0.2
    parts = list(folds(treated, groups, 0))
    assert np.sort(np.concatenate([rest for _, rest in parts])).tolist() == list(range(N))
    for fit, rest in parts:
        assert not set(groups[fit].tolist()) & set(groups[rest].tolist())
        assert len(rest) == pytest.approx(N / 5, rel=0.1) and treated[rest].sum() == pytest.approx(
            treated.sum() / 5, rel=0.2
        )
    with pytest.raises(UsageError, match="searches of 4 users: 5 are needed"):
        list(folds(treated, groups % 4, 0))


def test_models_find_what_is_neither_linear_nor_additive() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=N), rng.normal(size=N)
    truth = 1 / (1 + np.exp(1 - 1.5 * a * b))
    treated = rng.random(N) < truth
    untreated = 2 + a**2
    outcome = untreated + 5 * treated + rng.normal(size=N)
    functions = functions_of(a=a, b=b)
    found = fit_nuisances(functions, treated, outcome[:, None], np.arange(N) // 2)
    assert {"a × b", "a squared"} <= {functions.name(each) for each in found.chosen}
    assert np.corrcoef(found.propensity, truth)[0, 1] > 0.9
    assert np.corrcoef(found.predicted[:, 0], untreated)[0, 1] > 0.9
    again = fit_nuisances(functions, treated, outcome[:, None], np.arange(N) // 2)
    assert (again.propensity == found.propensity).all() and (again.predicted == found.predicted).all()


def test_a_side_in_one_fold_is_said() -> None:
    groups, treated = np.arange(N) % 50, np.arange(N) % 50 > 0  # one user alone is untreated
    with pytest.raises(UsageError, match="too few users"):
        fit_nuisances(functions_of(), treated, np.zeros((N, 1)), groups)


def compared(
    functions: Functions, propensity: Floats, treated: Bools, chosen: tuple[Function, ...] = ()
) -> GroupsCompared:
    nuisances = Nuisances(propensity, np.zeros((len(treated), 0)), list(chosen))
    return compare(functions, nuisances, [], treated, np.arange(len(treated)))


def u_shaped(seed: int) -> tuple[Functions, Floats, Bools]:
    rng = np.random.default_rng(seed)
    a = rng.uniform(-2, 2, N)
    propensity = 1 / (1 + np.exp(1.5 - 0.8 * a**2))
    return functions_of(a=a), propensity, rng.random(N) < propensity


def test_squares_and_products_are_balanced_as_well_as_means() -> None:
    functions, propensity, treated = u_shaped(5)
    found = compared(functions, propensity, treated)
    assert found.refusal is None and found.kept.all()
    before = {each.name: each.before for each in found.differences}
    squares = functions.take([Function(functions.names.index("a squared"))])[:, 0]
    spread = np.sqrt((squares[treated].var() + squares[~treated].var()) / 2)
    assert before["a squared"] == pytest.approx((squares[treated].mean() - squares[~treated].mean()) / spread)
    assert before["a squared"] > 0.5 and abs(before["a"]) < 0.2 and "a × b" in before and PROPENSITY in before
    assert max(abs(each.weighted or 0) for each in found.differences) <= 0.1 and not found.beyond_chance
    weight = found.weight[~treated]
    assert found.effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert np.average(squares[~treated], weights=weight) == pytest.approx(squares[treated].mean(), abs=0.1 * spread)


def test_what_weights_leave_is_found_without_being_modelled() -> None:
    """Either of two thresholds, which no product of covariates tells: weights are blind for it, the check is not."""
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=3000), rng.normal(size=3000)
    treated = rng.random(3000) < np.where((a > 0) ^ (b > 0), 0.6, 0.1)
    found = compared(functions_of(n=3000, a=a, b=b), np.full(3000, 0.35), treated)
    assert found.beyond_chance and all("(a > " in each.name for each in found.beyond_chance[:1])
    assert abs(found.beyond_chance[0].weighted or 0.0) > 0.1


def test_who_has_nobody_like_them_is_left_out() -> None:
    functions, _, treated = u_shaped(7)
    propensity = np.random.default_rng(7).uniform(0.2, 0.5, N)
    some = np.flatnonzero(treated)[:50]
    propensity[some] = 0.95
    found = compared(functions, propensity, treated)
    assert found.refusal is None and np.flatnonzero(~found.kept).tolist() == some.tolist()
    assert found.n_treated == treated.sum() - 50 and not found.weight[some].any()
    most = np.flatnonzero(treated)[: int(treated.sum() * 0.51) + 1]
    propensity[most] = 0.95
    refused = compared(functions, propensity, treated)
    assert refused.refusal is not None and f"no overlap: {len(most)} of {treated.sum()} searches" in refused.refusal
    assert not refused.weight.any()


def test_one_search_with_all_the_weight_is_refused() -> None:
    functions, _, treated = u_shaped(8)
    propensity = np.where(treated, 0.5, 0.001)
    propensity[np.flatnonzero(~treated)[:8]] = 0.9
    found = compared(functions, propensity, treated)
    assert found.refusal is not None and "too little overlap" in found.refusal and "(Kish)" in found.refusal


def test_few_users_on_a_side_are_refused() -> None:
    treated = np.arange(40) < 20
    assert refuse_groups(treated, np.arange(40)) is None
    refusal = refuse_groups(treated, np.where(treated, np.arange(40) % 3, np.arange(40)))
    assert refusal is not None and "with an answer are of 3 users: 5 are needed" in refusal
