"""Make the table of judged pairs: how far each measure's preferences correlate with people's, by aspect.

A measure prefers b by its score of b less that of a. This difference is compared with what each judge said of the pair,
so a pair counts as often as it was judged. Intervals and tests draw and exchange queries, with all judgements of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from statistics import NormalDist
from typing import Literal, Protocol

import numpy as np

from qilin_rag.agreement.comparing import (
    Comparisons,
    Statistic,
    beats_all,
    compare_measures,
    holm_matrix,
    rank_clusters,
)
from qilin_rag.agreement.intervals import AgreementFigure
from qilin_rag.agreement.pair_figures import Ceiling, Judgements, ceiling_of, difference_error, figures_of
from qilin_rag.agreement.pairs import JudgedPairs
from qilin_rag.agreement.system_order import SystemAspect, system_orders
from qilin_rag.core.progress import stage
from qilin_rag.core.stats import ALPHA, Clusters, Values
from qilin_rag.core.types import Frozen

_POWER = 0.8


class Labelled(Protocol):
    """Things that people judged: pairs of answers (`JudgedPairs`), or answers (`RatedAnswers`)."""

    @property
    def pairs(self) -> Sized:
        """The things."""

    @property
    def queries(self) -> Clusters:
        """The number of the query of each."""

    @property
    def aspects(self) -> list[str]:
        """The names of what was judged."""

    def judgements(self, aspect: str) -> Values:
        """Return what each judge said of each, shape (things, judges); NaN for what a judge did not say."""


class MeasureAgreement(Frozen):
    """How far one measure agrees with people on one aspect.

    Attributes:
        measure: Its name.
        kind: `measure`, or `sentinel`.
        n: The number of judgements of pairs that it scores.
        pearson: Pearson's correlation.
        spearman: Spearman's correlation.
        kendall: Kendall's tau-b.
        accuracy: Pairwise accuracy with tie calibration.
        epsilon: The largest difference in score that counts as a tie.
        rank: The rank of its cluster among the measures; None if it can't be ranked, and for a sentinel.
        p_beyond_sentinels: Holm's p of agreeing better than every sentinel, on the judgements that both score; None
            if it does not agree better.
    """

    measure: str
    kind: Literal["measure", "sentinel"]
    n: int
    pearson: AgreementFigure
    spearman: AgreementFigure
    kendall: AgreementFigure
    accuracy: AgreementFigure
    epsilon: float | None
    rank: int | None
    p_beyond_sentinels: float | None

    @property
    def is_beyond_sentinels(self) -> bool:
        """Whether people agree with it beyond the sentinels."""
        return self.p_beyond_sentinels is not None and self.p_beyond_sentinels <= ALPHA


class AspectAgreement(Frozen):
    """The agreement of all measures with people on one aspect.

    Attributes:
        aspect: What was judged.
        n_judgements: The number of judgements.
        ceiling: The agreement of the judges; None if no pair has two.
        rows: The measures, best first, then the sentinels.
        strongest_sentinel: The sentinel that agrees most, with whatever sign; None if none can be said to agree.
        detectable: The smallest difference of the best measure to that sentinel that is found four times in five;
            None if there are too few queries to say.
    """

    aspect: str
    n_judgements: int
    ceiling: Ceiling | None
    rows: list[MeasureAgreement]
    strongest_sentinel: str | None
    detectable: float | None


class PairAgreement(Frozen):
    """The table of all aspects.

    Attributes:
        n_pairs: The number of pairs.
        n_queries: The number of distinct queries, which are drawn for the intervals.
        by: The statistic by which measures are compared and ranked.
        seed: The seed of draws and exchanges.
        aspects: The table of each aspect.
        orders: The order of the systems by aspect, if three or more have a name.
    """

    n_pairs: int
    n_queries: int
    by: Statistic
    seed: int
    aspects: list[AspectAgreement]
    orders: list[SystemAspect] = []


def pair_agreement(
    judged: Labelled,
    measures: Mapping[str, Values],
    sentinels: Mapping[str, Values],
    by: Statistic = "pearson",
    seed: int = 0,
) -> PairAgreement:
    """Compare measures and sentinels with people's judgements of pairs.

    Args:
        judged: The pairs.
        measures: The scores of both answers of each pair, shape (pairs, 2), by measure; NaN for unscored ones.
        sentinels: Likewise, of scores that must not win.
        by: The statistic by which measures are compared and ranked.
        seed: Draws the resamples and exchanges.

    Returns:
        A table for each aspect, and one of the order of systems.
    """
    gains = {name: values[:, 1] - values[:, 0] for name, values in {**measures, **sentinels}.items()}
    aspects = [_aspect(judged, aspect, gains, set(sentinels), by, seed) for aspect in judged.aspects]
    n_queries = len(set(judged.queries.tolist()))
    orders = system_orders(judged, measures, sentinels, seed) if isinstance(judged, JudgedPairs) else []
    return PairAgreement(
        n_pairs=len(judged.pairs), n_queries=n_queries, by=by, seed=seed, aspects=aspects, orders=orders
    )


def _aspect(
    judged: Labelled, aspect: str, gains: Mapping[str, Values], sentinels: set[str], by: Statistic, seed: int
) -> AspectAgreement:
    said = judged.judgements(aspect)
    pairs, judges = np.nonzero(~np.isnan(said))
    rows = Judgements(pairs, said[pairs, judges], judged.queries[pairs])
    of_rows = {name: gain[pairs] for name, gain in gains.items()}
    found = {}
    with stage(f"agreement on {aspect}", len(gains)) as advance:
        for name, gain in of_rows.items():
            found[name] = figures_of(gain, rows, seed)
            advance()
    values = {name: getattr(each, by).value for name, each in found.items()}
    beyond, strongest, compared = _beyond(of_rows, values, sentinels, rows, by, seed)
    measures = [name for name in gains if name not in sentinels]
    of_measures = rank_clusters([values[name] for name in measures], compared.gains, holm_matrix(compared.p))
    ranks = dict(zip(measures, of_measures, strict=True))
    table = [
        MeasureAgreement(
            measure=name,
            kind="sentinel" if name in sentinels else "measure",
            rank=ranks.get(name),
            p_beyond_sentinels=beyond.get(name),
            **each._asdict(),
        )
        for name, each in found.items()
    ]
    table.sort(key=lambda row: (row.kind == "sentinel", _order(values[row.measure])))
    best = next((row.measure for row in table if row.kind == "measure" and values[row.measure] is not None), None)
    error = None
    if best and strongest:
        sign = -1.0 if (values[strongest] or 0.0) < 0 else 1.0
        error = difference_error(of_rows[best], sign * of_rows[strongest], rows, by, seed)
    normal = NormalDist()
    n_errors = normal.inv_cdf(1 - ALPHA / 2) + normal.inv_cdf(_POWER)
    return AspectAgreement(
        aspect=aspect,
        n_judgements=len(pairs),
        ceiling=ceiling_of(said, judged.queries, seed),
        rows=table,
        strongest_sentinel=strongest,
        detectable=None if error is None else n_errors * error,
    )


def _order(value: float | None) -> float:
    return np.inf if value is None else -value


def _beyond(
    gains: Mapping[str, Values],
    values: Mapping[str, float | None],
    sentinels: set[str],
    rows: Judgements,
    by: Statistic,
    seed: int,
) -> tuple[dict[str, float | None], str | None, Comparisons]:
    """Return Holm's p of each measure being better than all sentinels, the strongest one, and the measures compared.

    A sentinel that people disagree with could be turned round by anybody, so its correlation counts without its sign.
    One without a figure is left out.
    """
    measures = [name for name in gains if name not in sentinels]
    strength = {name: abs(value) for name in sentinels if (value := values[name]) is not None}
    rivals = [name for name in gains if name in strength]
    scores = [gains[name] for name in [*measures, *rivals]]
    n = len(measures)
    compared = compare_measures(scores, rows.labels, rows.queries, by, seed, unsigned=range(n, len(scores)))
    found = beats_all(compared.gains[:n, n:], compared.p[:n, n:])
    strongest = max(rivals, key=lambda name: strength[name], default=None)
    return dict(zip(measures, found, strict=True)), strongest, Comparisons(*(each[:n, :n] for each in compared))
