"""95% intervals of agreement: clusters are drawn with replacement, rows of one cluster together.

The interval is that of t with a standard error, on the scale on which the figure is closest to normal: Fisher's z of a
correlation, the log odds of a share. Percentiles of resamples hold the truth too seldom: resamples of n clusters vary
less by (n - 1) / n, and few clusters need t (Hesterberg 2015, What Teachers Should Know About the Bootstrap). So the
variance of the resamples is multiplied by n / (n - 1). If that of the jackknife, which leaves out each cluster, is
larger, it counts instead: it is never too small on average (Efron and Stein 1981), and the safest one for few clusters
of unequal sizes (MacKinnon, Nielsen and Webb 2023, Journal of Applied Econometrics 38).

The middle is the figure less its bias, which is by how much the resamples are higher than the figure: a threshold that
is fitted to the data makes an accuracy look too high. The bias is uncertain as well, so it makes the interval wider,
too.

Rows that are clustered in two ways that cross, such as by user and by question, have the sum of both variances less
that of the pairs (Cameron, Gelbach and Miller 2011).

`benchmarks/agreement_coverage.py` simulates how often the interval holds the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.stats import ALPHA, Clusters, Values, why_too_few
from qilin_rag.core.types import Frozen

N_RESAMPLES = 1_000
MOST_UNDEFINED = 0.05
"""The share of resamples without a figure above which there is no interval."""
MOST_LEFT_OUT = 500
"""Most clusters that are left out one by one; with more, the resamples and the normal quantile are close enough."""
MOST_BUNDLES = 1_000
"""Most clusters that are drawn for a figure whose work grows with their square; more are drawn in bundles."""
FEWEST_FREE = 8
"""The fewest degrees of freedom of the critical value of t."""
_BLOCK_VALUES = 2_000_000
_ALMOST = 1 - 1e-12
Scale = Literal["correlation", "share"]
Resampled = Callable[[Values, Clusters], Values]
"""Maps weights of clusters (resamples, clusters) and the cluster of each row to one figure a resample."""


class AgreementFigure(Frozen):
    """A figure of agreement with its 95% interval.

    Attributes:
        value: The figure; None if it is undefined.
        ci95: The interval; None if there is none.
        reason: Why there is no figure, or no interval.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    reason: str | None = None


def resample(figure: Resampled, clusters: Clusters, seed: int = 0) -> Values:
    """Return a figure of `N_RESAMPLES` draws of clusters, NaN for each draw in which it is undefined.

    Args:
        figure: The figure of weighted clusters.
        clusters: The cluster of each row, shape (n,).
        seed: Draws the clusters.
    """
    found, numbers = np.unique(clusters, return_inverse=True)
    return _in_blocks(figure, _draws(len(found), seed), numbers)


def _in_blocks(figure: Resampled, weights: npt.NDArray[np.uint8], clusters: Clusters) -> Values:
    """Return the figure of each row of weights, of so many at a time as memory allows."""
    block = max(1, _BLOCK_VALUES // max(1, len(clusters)))
    starts = range(0, len(weights), block)
    return np.concatenate([figure(weights[start : start + block].astype(np.float64), clusters) for start in starts])


@lru_cache(maxsize=16)
def _draws(n: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return how often each of n clusters is drawn, shape (resamples, n); the figures of a table share their draws."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(np.uint8)


def bundled(clusters: Clusters, most: int = MOST_BUNDLES) -> Clusters:
    """Return the bundle of each row, shape (n,): independent clusters can be drawn in bundles of about one number.

    Args:
        clusters: The cluster of each row, shape (n,).
        most: The most bundles.

    >>> bundled(np.array([4, 4, 7, 9]), 2).tolist()
    [0, 0, 1, 0]
    """
    numbers: Clusters = np.unique(clusters, return_inverse=True)[1] % most
    return numbers


def by_row(figure: Callable[[Values], Values]) -> Resampled:
    """Return a figure of weighted clusters from one of weighted rows."""
    return lambda weights, clusters: figure(weights[:, clusters])


def with_interval(
    value: float | None, figure: Resampled, scale: Scale, *clusters: Clusters, seed: int = 0, why: str = "undefined"
) -> AgreementFigure:
    """Return a figure with its 95% interval, or with the reason why it has none.

    Args:
        value: The figure of the rows as they are.
        figure: The same figure of weighted clusters.
        scale: `correlation`, from -1 to 1, or `share`, from 0 to 1.
        *clusters: The cluster of each row, shape (n,), in one way or in two that cross.
        seed: Draws the clusters.
        why: The reason if there is no figure.
    """
    if value is None:
        return AgreementFigure(value=None, reason=why)
    sizes = [np.unique(each, return_counts=True)[1].astype(np.float64) for each in clusters]
    if too_few := next(filter(None, map(why_too_few, sizes)), None):
        return AgreementFigure(value=value, reason=too_few)
    if abs(value) >= 1 or (scale == "share" and value <= 0):
        return AgreementFigure(value=value, reason="at its limit, from where no resample leads away")
    ways = [*clusters, _crossed(*clusters)] if len(clusters) == 2 else clusters
    variances, biases, freedoms = [], [], []
    for way in ways:
        draws = resample(figure, way, seed)
        draws = draws[~np.isnan(draws)]
        if (n_undefined := N_RESAMPLES - len(draws)) > MOST_UNDEFINED * N_RESAMPLES:
            return AgreementFigure(value=value, reason=f"undefined in {n_undefined} of {N_RESAMPLES} resamples")
        n = len(np.unique(way))
        jackknife = _jackknife(figure, way)
        variances.append(max(float(draws.var(ddof=1)) * n / (n - 1), jackknife.variance))
        biases.append(float(draws.mean()) - value)
        freedoms.append(jackknife.freedom)
    variance, bias = variances[0], biases[0]
    if len(ways) == 3:
        variance = max(variances[0] + variances[1] - variances[2], *variances[:2])
        bias = biases[0] + biases[1] - biases[2]
    half = _t_critical(min(freedoms[: len(clusters)])) * math.hypot(math.sqrt(variance), bias)
    return AgreementFigure(value=value, ci95=_ends(value, value - bias, half, scale))


class _Jackknife(NamedTuple):
    """The variance of a figure, and how many equal clusters, less one, would know it as well."""

    variance: float
    freedom: float


def _jackknife(figure: Resampled, clusters: Clusters) -> _Jackknife:
    """Leave out each cluster; of too many, none, and the variance is 0.

    A few clusters that move the figure much make its variance uncertain (degrees of freedom by Satterthwaite 1946).
    """
    found, numbers = np.unique(clusters, return_inverse=True)
    n = len(found)
    if n > MOST_LEFT_OUT:
        return _Jackknife(0.0, n - 1)
    moves = _in_blocks(figure, 1 - np.eye(n, dtype=np.uint8), numbers)
    moves = np.square(moves - np.nanmean(moves))
    total = float(np.nansum(moves))
    relative_variance = float(np.nansum(moves**2)) / total**2 - 1 / n if total > 0 else 0.0
    freedom = float(np.clip(2 / relative_variance, FEWEST_FREE, n - 1)) if relative_variance > 0 else n - 1.0
    return _Jackknife(total * (n - 1) / n, freedom)


def _t_critical(freedom: float) -> float:
    """Return the two-sided critical value of t by its expansion around the normal (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(1 - ALPHA / 2)
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def _ends(value: float, middle: float, half: float, scale: Scale) -> tuple[float, float]:
    """Return the ends of an interval of half-width `half` around `middle`, made on the scale of the figure."""
    if scale == "correlation":
        middle, half = math.atanh(min(max(middle, -_ALMOST), _ALMOST)), half / (1 - value**2)
        return math.tanh(middle - half), math.tanh(middle + half)
    middle, half = min(max(middle, 1 - _ALMOST), _ALMOST), half / (value * (1 - value))
    log_odds = math.log(middle / (1 - middle))
    low, high = (math.tanh(end / 2) for end in (log_odds - half, log_odds + half))
    return (1 + low) / 2, (1 + high) / 2


def _crossed(first: Clusters, second: Clusters) -> Clusters:
    """Return the cluster of each row by both ways together."""
    return np.unique(np.stack([first, second]), axis=1, return_inverse=True)[1].reshape(-1)
