"""Functions of covariates beyond their means: squares, thresholds, and products of two.

A covariate can confound in any shape (U-shaped, above a threshold, only together with another). Models therefore choose
from these functions, and balance is checked on all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEWEST_ROWS = 20
"""The fewest rows for which a threshold, or two indicators together, must hold to be checked."""

_CUTS = 10
_ROUNDING = 1e-8
_LEVEL = 0.02
_MOST_CHOSEN = 15
_MOST_AT_ONCE = 4
_BLOCK_ROWS = 8192


class Function(NamedTuple):
    """A function of one covariate, or a product of two: positions in `Functions.names`; `second` -1 means none."""

    first: int
    second: int = -1


class Moments(NamedTuple):
    """Weighted means and variances of all products of two functions, (p, p)."""

    mean: Floats
    variance: Floats


class Functions:
    """The functions of one covariate each, standardised, and the data for their products.

    Args:
        names: The covariates' names, (d,).
        values: The covariates, (n, d), without constant and duplicate columns (`distinct_columns`).
        plain: Names of covariates whose shape is arbitrary, such as latent dimensions. They are used unchanged, and in
            products with covariates that are not plain.

    Attributes:
        values: The functions, (n, p), in single precision.
        names: The names of the functions, (p,).
        column: The covariate of each function, (p,).
        n_columns: The number of first functions that are the covariates themselves.
    """

    def __init__(self, names: Sequence[str], values: Floats, plain: Collection[str] = ()) -> None:
        self.n_columns = len(names)
        shapes, titles, columns = list(values.T), list(names), list(range(len(names)))
        for column, name in enumerate(names):
            for title, function in [] if name in plain else _shapes(name, values[:, column]):
                shapes.append(function)
                titles.append(title)
                columns.append(column)
        standard = np.stack([standardised(function) for function in shapes], axis=1)
        kept_columns = [number for number, first in enumerate(_first_alike(standard)) if first == number]
        self.values = standard[:, kept_columns].astype(np.float32)
        self.names = [titles[number] for number in kept_columns]
        self.column = np.array([columns[number] for number in kept_columns])
        self.is_plain = np.array([names[column] in plain for column in self.column])

    def name(self, function: Function) -> str:
        """Return the name of a function or product, for people."""
        first = self.names[function.first]
        if function.second < 0:
            return first
        both = [f"({name})" if " > " in name else name for name in (first, self.names[function.second])]
        return " × ".join(both)

    def take(self, functions: Sequence[Function], rows: Ints | slice = slice(None)) -> Floats:
        """Return the values of these functions, (n_rows, k), in double precision."""
        found = np.empty((len(self.values[rows]), len(functions)))
        for at, (first, second) in enumerate(functions):
            found[:, at] = self.values[rows, first]
            if second >= 0:
                found[:, at] *= self.values[rows, second]
        return found

    def pairs(self, most: int | None = None) -> Bools:
        """Return which products of the first `most` functions are checked, (p, p): above the diagonal, not rare."""
        part = self.values[:, :most]
        above = (part > 0).astype(np.float32)
        both = above.T @ above
        apart = self.column[:most, None] != self.column[None, :most]
        both_plain = self.is_plain[:most, None] & self.is_plain[None, :most]
        found: Bools = np.triu((both >= FEWEST_ROWS) & apart & ~both_plain, 1)
        return found

    def moments(self, rows: Bools, weight: Floats, most: int | None = None) -> Moments:
        """Return mean and variance of all products of the first `most` functions over `rows`, weighted (n,)."""
        places = np.flatnonzero(rows)
        share = (weight[places] / weight[places].sum()).astype(np.float32)[:, None]
        p = self.values[:, :most].shape[1]
        mean, square = np.zeros((p, p)), np.zeros((p, p))
        for start in range(0, len(places), _BLOCK_ROWS):
            block = self.values[places[start : start + _BLOCK_ROWS], :most]
            of_block = share[start : start + _BLOCK_ROWS]
            mean += block.T @ (block * of_block)
            block = block**2
            square += block.T @ (block * of_block)
        return Moments(mean, np.maximum(square - mean**2, 0))


def distinct_columns(names: Sequence[str], values: Floats) -> tuple[list[int], dict[str, str]]:
    """Find the covariates that carry information: neither constant, up to rounding, nor a copy of an earlier one.

    Returns:
        The columns to keep, and the reason for each dropped one: `constant`, or `same as NAME`.
    """
    if not len(names):
        return [], {}
    firsts = _first_alike(np.stack([standardised(column) for column in values.T], axis=1))
    reasons = ["constant" if first < 0 else f"same as {names[first]}" for first in firsts]
    kept_columns = [column for column, first in enumerate(firsts) if first == column]
    return kept_columns, {name: reasons[column] for column, name in enumerate(names) if column not in kept_columns}


def standardised(values: Floats) -> Floats:
    """Return values with mean 0 and standard deviation 1; 0 everywhere for a constant, up to rounding."""
    deviation = values.std()
    if not deviation > _ROUNDING * max(1.0, float(np.abs(values).max())):
        return np.zeros_like(values)
    found: Floats = (values - values.mean()) / deviation
    return found


def choose(functions: Functions, target: Floats, rows: Ints) -> list[Function]:
    """Choose the functions that explain a target beyond the covariates themselves.

    Forward selection: functions with the largest correlation with the residuals of least squares join the model, until
    none exceeds chance (Bonferroni, at .02 for functions of one covariate and .02 for products).

    Args:
        functions: The functions to choose from.
        target: The target, (n_rows,).
        rows: The rows of `functions` that the target belongs to.
    """
    values = functions.values[rows].astype(float)
    values -= values.mean(axis=0)
    n, p = values.shape
    allowed = functions.pairs()
    least = NormalDist().inv_cdf(1 - _LEVEL / 2 / p), NormalDist().inv_cdf(1 - _LEVEL / 2 / max(1, allowed.sum()))
    squares = values**2
    deviation = np.sqrt(np.maximum(squares.T @ squares / n - (values.T @ values / n) ** 2, 0.01))
    single = np.maximum(values.std(axis=0), 0.1)
    model = np.column_stack([np.ones(n), values[:, : functions.n_columns]])
    chosen: list[Function] = []
    while len(chosen) < _MOST_CHOSEN:
        gram = model.T @ model + 1e-6 * n * np.eye(model.shape[1])
        residual = target - model @ np.linalg.solve(gram, model.T @ target)
        if not (scale := residual.std() * np.sqrt(n)) > _ROUNDING:
            break
        alone = np.abs(residual @ values) / single / scale / least[0]
        together = np.where(allowed, np.abs(values.T @ (values * residual[:, None])) / deviation / scale / least[1], 0)
        best = np.argpartition(-together.ravel(), _MOST_AT_ONCE)[:_MOST_AT_ONCE]
        ranked = [(float(alone[place]), Function(int(place))) for place in np.argsort(-alone)[:_MOST_AT_ONCE]]
        ranked += [(float(together.flat[place]), Function(int(place // p), int(place % p))) for place in best]
        columns: list[Floats] = []
        for z, function in sorted(ranked, reverse=True):
            column = standardised(functions.take([function], rows)[:, 0])
            if z > 1 and function not in chosen and all(abs(column @ earlier) < n / 2 for earlier in columns):
                columns.append(column)
                chosen.append(function)
        if not columns:
            break
        model = np.column_stack([model, *columns])
    return chosen


def _shapes(name: str, values: Floats) -> list[tuple[str, Floats]]:
    """Return the square and the thresholds of a covariate; none for an indicator."""
    distinct = np.unique(values)
    if len(distinct) < 3:
        return []
    shapes = [(f"{name} squared", standardised(values) ** 2)]
    cuts = distinct[:-1] if len(distinct) <= _CUTS else np.unique(np.quantile(values, np.arange(1, _CUTS) / _CUTS))
    for cut in cuts:
        above = values > cut
        if min(above.sum(), (~above).sum()) >= FEWEST_ROWS:
            shapes.append((f"{name} > {cut:.3g}", above.astype(float)))
    return shapes


def _first_alike(standard: Floats) -> list[int]:
    """Return for each column the first one that it equals or mirrors: itself if there is no earlier one.

    A constant column has -1.
    """
    alike = np.abs(standard.T @ standard) > (1 - _ROUNDING) * len(standard)
    return [int(alike[at].argmax()) if alike[at, at] else -1 for at in range(len(alike))]
