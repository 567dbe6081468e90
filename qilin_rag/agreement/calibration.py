"""Choose among judges and thresholds by people's labels, and tell how well the choice does on labels it did not see.

The best of several judges on some labels looks better there than it is, and so does a threshold that was fitted to
them. So queries are split into folds. In each fold the judge and the threshold are those that agree best with the
labels of the other folds, and what is reported is their agreement in this one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qilin_rag.agreement.correlations import ratio
from qilin_rag.agreement.intervals import AgreementFigure, by_row, with_interval
from qilin_rag.agreement.pairs import JudgedPairs
from qilin_rag.agreement.tie_calibration import is_right, tie_calibrated
from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import ALPHA, Clusters, Values, permutation_test
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen

N_FOLDS = 5
_DECIMALS = 12
"""Differences of scores are ties if they differ by rounding alone."""


class CalibratedJudge(Frozen):
    """A judge with a threshold that was chosen on other folds.

    Attributes:
        judge: Its name.
        n_chosen: The number of folds in which it was the best of all on the other folds.
        held_out: Its agreement, each fold with the threshold that is best on the others.
    """

    judge: str
    n_chosen: int
    held_out: AgreementFigure


class Calibration(Frozen):
    """How well a choice among judges agrees with people on one aspect.

    Attributes:
        aspect: What was judged.
        n_judgements: The number of judgements.
        n_queries: The number of distinct queries.
        n_folds: The number of folds.
        seed: Draws the folds and the intervals.
        judge: The judge that is best on all labels; this is the one to use.
        epsilon: Its threshold: the largest difference in score that counts as a tie.
        held_out: The agreement to expect of that choice: the share of judgements that the choices of the other folds
            got right. An unscored pair counts as wrong.
        most_frequent: The share of judgements that say what most of them say, such as that b is better.
        p_beyond_most_frequent: The p of agreeing no better than that; None if it does not agree better.
        judges: Each judge alone, best first.
    """

    aspect: str
    n_judgements: int
    n_queries: int
    n_folds: int
    seed: int
    judge: str
    epsilon: float
    held_out: AgreementFigure
    most_frequent: AgreementFigure
    p_beyond_most_frequent: float | None
    judges: list[CalibratedJudge]

    @property
    def is_shown(self) -> bool:
        """Whether the choice is shown to agree better than saying always the same."""
        return self.p_beyond_most_frequent is not None and self.p_beyond_most_frequent <= ALPHA


def calibrate(
    judged: JudgedPairs, measures: Mapping[str, Values], aspect: str, n_folds: int = N_FOLDS, seed: int = 0
) -> Calibration:
    """Choose a judge and its threshold by cross-validation.

    Args:
        judged: The pairs, with what people said of them.
        measures: The scores of both answers of each pair by judge, shape (pairs, 2); NaN for unscored ones.
        aspect: What was judged.
        n_folds: The number of folds; all pairs of a query are in one.
        seed: Draws the folds and the intervals.

    Returns:
        The choice, and its agreement with labels that it did not see.

    Raises:
        UsageError: if there are no judges, or fewer queries than folds.
    """
    if not measures:
        raise UsageError(
            "no judge has scores of these pairs; judge the runs, or add scores to the lines of the file, such as "
            "my_judge: {a: 0.4, b: 0.9}"
        )
    said = judged.judgements(aspect)
    pairs, people = np.nonzero(~np.isnan(said))
    labels, queries = said[pairs, people], judged.queries[pairs]
    folds = fold_of(queries, n_folds, seed)
    gains = {name: np.round(scores[pairs, 1] - scores[pairs, 0], _DECIMALS) for name, scores in measures.items()}
    right = {name: np.zeros(len(labels)) for name in gains}
    chosen = np.zeros(len(labels))
    n_chosen = dict.fromkeys(gains, 0)
    for fold in range(n_folds):
        held_out = folds == fold
        fitted = {name: _fit(gain[~held_out], labels[~held_out]) for name, gain in gains.items()}
        for name, gain in gains.items():
            right[name][held_out] = is_right(gain[held_out], labels[held_out], fitted[name][1])
        best = _best(fitted)
        n_chosen[best] += 1
        chosen[held_out] = right[best][held_out]
    of_all = {name: _fit(gain, labels) for name, gain in gains.items()}
    best = _best(of_all)
    signs, counts = np.unique(np.sign(labels), return_counts=True)
    frequent = (np.sign(labels) == signs[counts.argmax()]).astype(np.float64)
    is_higher = chosen.mean() > frequent.mean()
    judges = [
        CalibratedJudge(judge=name, n_chosen=n_chosen[name], held_out=_figure(values, queries, seed))
        for name, values in right.items()
    ]
    return Calibration(
        aspect=aspect,
        n_judgements=len(labels),
        n_queries=len(np.unique(queries)),
        n_folds=n_folds,
        seed=seed,
        judge=best,
        epsilon=of_all[best][1],
        held_out=_figure(chosen, queries, seed),
        most_frequent=_figure(frequent, queries, seed),
        p_beyond_most_frequent=permutation_test((chosen - frequent)[:, None], queries, seed)[0] if is_higher else None,
        judges=sorted(judges, key=lambda each: -(each.held_out.value or 0)),
    )


def calibrate_aspects(
    judged: JudgedPairs, measures: Mapping[str, Values], n_folds: int = N_FOLDS, seed: int = 0
) -> tuple[list[Calibration], list[str]]:
    """Choose a judge and its threshold on each aspect; say which aspects have too few queries.

    Args:
        judged: The pairs, with what people said of them.
        measures: The scores of both answers of each pair by judge, shape (pairs, 2); NaN for unscored ones.
        n_folds: The number of folds.
        seed: Draws the folds and the intervals.

    Raises:
        UsageError: if there are no judges, or each aspect has fewer queries than folds.
    """
    found, remarks = [], []
    for aspect in judged.aspects:
        is_judged = ~np.isnan(judged.judgements(aspect)).all(axis=1)
        n_queries = len(np.unique(judged.queries[is_judged]))
        if n_queries < n_folds:
            remarks.append(f"{aspect} left out: {_too_few(n_queries, n_folds)}")
        else:
            found.append(calibrate(judged, measures, aspect, n_folds, seed))
    if not found:
        raise UsageError("; ".join(remarks))
    return found, remarks


def fold_of(queries: Clusters, n_folds: int, seed: int = 0) -> Clusters:
    """Return the fold of each row, from 0, shape (n,): rows of a query share one, and folds have about as many queries.

    Args:
        queries: The query of each row.
        n_folds: The number of folds.
        seed: Draws them.

    Raises:
        UsageError: if there are fewer queries than folds.

    >>> sorted(fold_of(np.array([4, 4, 7]), 2).tolist()) in ([0, 0, 1], [0, 1, 1])
    True
    """
    found, numbers = np.unique(queries, return_inverse=True)
    if len(found) < n_folds:
        raise UsageError(_too_few(len(found), n_folds))
    order = np.random.default_rng(seed).permutation(len(found))
    folds: Clusters = (order % n_folds)[numbers]
    return folds


def _too_few(n_queries: int, n_folds: int) -> str:
    return f"{counted(n_queries, 'query', 'queries')} can't make {n_folds} folds; label more queries"


def _fit(gains: Values, labels: Values) -> tuple[float, float]:
    """Return the highest agreement on these labels, unscored pairs as wrong, and its threshold."""
    scored = ~np.isnan(gains)
    found = tie_calibrated(gains[scored], labels[scored])
    return (found.accuracy * float(scored.mean()), found.epsilon) if found else (0.0, 0.0)


def _best(fitted: Mapping[str, tuple[float, float]]) -> str:
    return max(fitted, key=lambda name: fitted[name][0])


def _figure(right: Values, queries: Clusters, seed: int) -> AgreementFigure:
    def shares(weights: Values) -> Values:
        return ratio(weights @ right, weights.sum(axis=1))

    return with_interval(float(right.mean()), by_row(shares), "share", queries, seed=seed)
