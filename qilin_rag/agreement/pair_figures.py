"""The figures of one measure, and of the judges among themselves, on judged pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from qilin_rag.agreement.annotators import krippendorff_alpha
from qilin_rag.agreement.comparing import Statistic
from qilin_rag.agreement.correlations import KendallSums, pearson, pearsons, ratio, spearman, spearmans
from qilin_rag.agreement.intervals import AgreementFigure, Resampled, bundled, by_row, resample, with_interval
from qilin_rag.agreement.tie_calibration import is_right, tie_calibrated, tie_calibrated_accuracies
from qilin_rag.core.stats import Clusters, Values, kendall_tau, why_too_few
from qilin_rag.core.types import Frozen

_CONSTANT = "always the same"
_RESAMPLED: dict[Statistic, Callable[[Values, Values, Values], Values]] = {
    "pearson": pearsons,
    "spearman": spearmans,
    "accuracy": tie_calibrated_accuracies,
}


class Judgements(NamedTuple):
    """The judgements of one aspect: the pair and the label of each, and the query of that pair."""

    pairs: Clusters
    labels: Values
    queries: Clusters


class Figures(NamedTuple):
    """The agreement of one measure with judgements; `n` is how many it scores."""

    n: int
    pearson: AgreementFigure
    spearman: AgreementFigure
    kendall: AgreementFigure
    accuracy: AgreementFigure
    epsilon: float | None


class Ceiling(Frozen):
    """How far two judges agree with each other; of more than two, the mean over all two of them.

    Attributes:
        n: The number of pairs of answers that two judges judged.
        pearson: Pearson's correlation.
        spearman: Spearman's correlation.
        kendall: Kendall's tau-b.
        accuracy: The share of pairs of which both say the same: a is better, b is better, or a tie.
        alpha: Krippendorff's alpha for ordinal ratings.
    """

    n: int
    pearson: AgreementFigure
    spearman: AgreementFigure
    kendall: AgreementFigure
    accuracy: AgreementFigure
    alpha: float | None


def figures_of(gains: Values, rows: Judgements, seed: int) -> Figures:
    """Return the figures of a measure, with intervals by draws of queries.

    Args:
        gains: The score of b less that of a, for each judgement; NaN if either is unscored.
        rows: The judgements.
        seed: Draws the queries.
    """
    is_scored = ~np.isnan(gains)
    x, y, queries = gains[is_scored], rows.labels[is_scored], rows.queries[is_scored]
    why = "nothing is scored"
    if len(x):
        why = _CONSTANT if np.ptp(x) == 0 else "the judges always say the same"
    bundles = bundled(queries)
    sums = KendallSums(x, y, bundles)
    calibrated = tie_calibrated(x, y)
    return Figures(
        n=len(x),
        pearson=with_interval(pearson(x, y), _drawn("pearson", x, y), "correlation", queries, seed=seed, why=why),
        spearman=with_interval(spearman(x, y), _drawn("spearman", x, y), "correlation", queries, seed=seed, why=why),
        kendall=with_interval(
            sums.tau(), lambda weights, _: sums.taus(weights), "correlation", bundles, seed=seed, why=why
        ),
        accuracy=with_interval(
            calibrated and calibrated.accuracy, _drawn("accuracy", x, y), "share", queries, seed=seed, why=why
        ),
        epsilon=calibrated and calibrated.epsilon,
    )


def difference_error(one: Values, other: Values, rows: Judgements, by: Statistic, seed: int) -> float | None:
    """Return the standard error of the difference in agreement of two measures; None for too few queries."""
    is_scored = ~np.isnan(one) & ~np.isnan(other)
    labels, queries = rows.labels[is_scored], rows.queries[is_scored]
    if why_too_few(np.unique(queries, return_counts=True)[1].astype(np.float64)):
        return None
    draws = [resample(_drawn(by, gains[is_scored], labels), queries, seed) for gains in (one, other)]
    differences = draws[0] - draws[1]
    differences = differences[~np.isnan(differences)]
    return float(differences.std(ddof=1)) if len(differences) > 1 else None


def ceiling_of(said: Values, queries: Clusters, seed: int) -> Ceiling | None:
    """Return the agreement of the judges; None if no pair has two.

    Args:
        said: The judgement of each judge of each pair, shape (pairs, judges); NaN if there is none.
        queries: The query of each pair.
        seed: Draws the queries.
    """
    both = [(one, other, rows) for one, other, rows in _two_judges(said) if rows.any()]
    if not both:
        return None
    is_judged = np.any([rows for _, _, rows in both], axis=0)
    of = queries[is_judged]
    bundles = bundled(of)
    of_two = [(one[rows], other[rows], rows[is_judged]) for one, other, rows in both]

    def mean(figure: Callable[[Values, Values], float | None]) -> float | None:
        found = [value for one, other, _ in of_two if (value := figure(one, other)) is not None]
        return float(np.mean(found)) if found else None

    def drawn(figures: Sequence[Resampled]) -> Resampled:
        def mean_of_draws(weights: Values, clusters: Clusters) -> Values:
            found = np.stack(
                [figure(weights, clusters[rows]) for figure, (_, _, rows) in zip(figures, of_two, strict=True)]
            )
            return ratio(np.nansum(found, axis=0), (~np.isnan(found)).sum(axis=0))

        return mean_of_draws

    def correlation(value: float | None, figures: Sequence[Resampled], clusters: Clusters) -> AgreementFigure:
        why = "one of two judges always says the same"
        return with_interval(value, drawn(figures), "correlation", clusters, seed=seed, why=why)

    def same(x: Values, y: Values) -> float:
        return float(is_right(x, y, 0.0).mean())

    def sames(x: Values, y: Values) -> Resampled:
        right = is_right(x, y, 0.0)
        return by_row(lambda weights: ratio(weights @ right, weights.sum(axis=1)))

    return Ceiling(
        n=int(is_judged.sum()),
        pearson=correlation(mean(pearson), [_drawn("pearson", x, y) for x, y, _ in of_two], of),
        spearman=correlation(mean(spearman), [_drawn("spearman", x, y) for x, y, _ in of_two], of),
        kendall=correlation(
            mean(lambda x, y: kendall_tau(x.tolist(), y.tolist())),
            [_drawn_taus(x, y, bundles[rows]) for x, y, rows in of_two],
            bundles,
        ),
        accuracy=with_interval(mean(same), drawn([sames(x, y) for x, y, _ in of_two]), "share", of, seed=seed),
        alpha=krippendorff_alpha(said.T, "ordinal"),
    )


def _two_judges(said: Values) -> Iterator[tuple[Values, Values, Values]]:
    """Yield what each two judges said, and the pairs that both judged."""
    for one, other in combinations(said.T, 2):
        yield one, other, ~np.isnan(one) & ~np.isnan(other)


def _drawn(by: Statistic, scores: Values, labels: Values) -> Resampled:
    return by_row(lambda weights: _RESAMPLED[by](scores, labels, weights))


def _drawn_taus(x: Values, y: Values, clusters: Clusters) -> Resampled:
    """Return tau-b of rows whose clusters, numbered from 0, may be some of those that have weights."""
    there, numbers = np.unique(clusters, return_inverse=True)
    sums = KendallSums(x, y, numbers)
    return lambda weights, _: sums.taus(weights[:, there])
