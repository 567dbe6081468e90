"""Compare measures with ratings of single answers: over all answers, within each question, and of whole runs.

Over all answers, the table is made as that of pairs is: each rating is a row, and intervals and tests draw and exchange
queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from qilin_rag.agreement.comparing import Statistic
from qilin_rag.agreement.correlations import ratio
from qilin_rag.agreement.intervals import AgreementFigure, by_row, with_interval
from qilin_rag.agreement.pair_table import PairAgreement, pair_agreement
from qilin_rag.agreement.systems import soft_pairwise_accuracy
from qilin_rag.core.stats import Clusters, Values, kendall_tau
from qilin_rag.core.types import Frozen

Kind = Literal["measure", "sentinel"]
FEWEST_RUNS = 3
"""The fewest runs whose order says anything."""
_OF_PAIRS = AgreementFigure(value=None, reason="of pairs only")


class RatedAnswers:
    """Answers with people's ratings.

    Args:
        answers: The id of the question and the number of the run of each answer.
        queries: The number of the query of each answer, shape (answers,).
        said: The ratings of each answer: a value by aspect, for each annotator.
    """

    def __init__(
        self,
        answers: list[tuple[str, int]],
        queries: Clusters,
        said: Sequence[Sequence[Mapping[str, float | None]]],
    ) -> None:
        """Hold the ratings."""
        self.pairs = answers
        self.queries = queries
        self.aspects = list(dict.fromkeys(aspect for each in said for of in each for aspect in of))
        self._said = said

    def judgements(self, aspect: str) -> Values:
        """Return the rating by each annotator of each answer, shape (answers, annotators); NaN if there is none."""
        found = np.full((len(self._said), max(map(len, self._said))), np.nan)
        for row, each in enumerate(self._said):
            found[row, : len(each)] = [of.get(aspect) for of in each]
        return found


class RunOrder(Frozen):
    """How far a measure agrees with people within questions, and on the order of the runs.

    Attributes:
        measure: Its name.
        kind: `measure`, or `sentinel`.
        n_questions: The number of questions with answers of several runs that people and the measure tell apart.
        within: The mean over these questions of Kendall's tau-b.
        n_answers: The number of answers with ratings and scores.
        soft_accuracy: Soft pairwise accuracy of the runs; None with less than three runs.
        kendall: Kendall's tau-b of the means of the runs; likewise.
    """

    measure: str
    kind: Kind
    n_questions: int
    within: AgreementFigure
    n_answers: int
    soft_accuracy: float | None
    kendall: float | None


class RatedAspect(Frozen):
    """The order of answers and runs on one aspect.

    Attributes:
        aspect: What was rated.
        n_answers: The number of rated answers.
        n_runs: The number of runs with ratings.
        rows: The measures, then the sentinels.
    """

    aspect: str
    n_answers: int
    n_runs: int
    rows: list[RunOrder]


def answer_agreement(
    rated: RatedAnswers,
    measures: Mapping[str, Values],
    sentinels: Mapping[str, Values],
    by: Statistic = "pearson",
    seed: int = 0,
) -> PairAgreement:
    """Compare measures and sentinels with ratings of single answers.

    Args:
        rated: The answers.
        measures: The score of each answer, shape (answers,), by measure; NaN for unscored ones.
        sentinels: Likewise, of scores that must not win.
        by: The statistic by which measures are compared; accuracy is of pairs only, and gives way to Pearson.
        seed: Draws the resamples and exchanges.

    Returns:
        A table of the form of pairs, whose accuracies have no value.
    """
    gains, rivals = (
        {name: np.stack([np.zeros(len(each)), each], axis=1) for name, each in of.items()}
        for of in (measures, sentinels)
    )
    table = pair_agreement(rated, gains, rivals, "pearson" if by == "accuracy" else by, seed)
    without = {"accuracy": _OF_PAIRS}
    aspects = [
        aspect.model_copy(
            update={
                "rows": [row.model_copy(update={**without, "epsilon": None}) for row in aspect.rows],
                "ceiling": aspect.ceiling and aspect.ceiling.model_copy(update=without),
            }
        )
        for aspect in table.aspects
    ]
    return table.model_copy(update={"aspects": aspects})


def run_orders(
    rated: RatedAnswers, measures: Mapping[str, Values], sentinels: Mapping[str, Values], seed: int = 0
) -> list[RatedAspect]:
    """Compare measures with people within questions and on the order of the runs, by the means of annotators.

    Args:
        rated: The answers.
        measures: The score of each answer, shape (answers,), by measure; NaN for unscored ones.
        sentinels: Likewise, of scores that must not win.
        seed: Draws resamples and permutations.

    Returns:
        A table for each aspect on which several runs were rated.
    """
    found = []
    for aspect in rated.aspects:
        said = rated.judgements(aspect)
        is_rated = ~np.isnan(said)
        labels = ratio(np.where(is_rated, said, 0.0).sum(axis=1), is_rated.sum(axis=1).astype(np.float64))
        runs = {run for (_, run), label in zip(rated.pairs, labels, strict=True) if not np.isnan(label)}
        if len(runs) > 1:
            kinds: list[tuple[Kind, Mapping[str, Values]]] = [("measure", measures), ("sentinel", sentinels)]
            rows = [
                _order(rated, name, kind, values, labels, seed) for kind, of in kinds for name, values in of.items()
            ]
            n_answers = int(is_rated.any(axis=1).sum())
            found.append(RatedAspect(aspect=aspect, n_answers=n_answers, n_runs=len(runs), rows=rows))
    return found


def _order(rated: RatedAnswers, measure: str, kind: Kind, scores: Values, labels: Values, seed: int) -> RunOrder:
    both = np.flatnonzero(~np.isnan(scores) & ~np.isnan(labels))
    questions: dict[str, list[int]] = defaultdict(list)
    for row in both.tolist():
        questions[rated.pairs[row][0]].append(row)
    taus, queries = [], []
    for rows in questions.values():
        tau = kendall_tau(scores[rows].tolist(), labels[rows].tolist()) if len(rows) > 1 else None
        if tau is not None:
            taus.append(tau)
            queries.append(rated.queries[rows[0]])
    of_questions = np.array(taus)
    runs = sorted({rated.pairs[row][1] for row in both.tolist()})
    people, measured = (np.full((len(runs), len(questions)), np.nan) for _ in "ab")
    for column, rows in enumerate(questions.values()):
        for row in rows:
            place = runs.index(rated.pairs[row][1])
            people[place, column], measured[place, column] = labels[row], scores[row]
    soft = of_means = None
    if len(runs) >= FEWEST_RUNS:
        of = np.array([rated.queries[rows[0]] for rows in questions.values()])
        soft = soft_pairwise_accuracy(people, measured, of, seed)
        of_means = kendall_tau(*(np.nanmean(values, axis=1).tolist() for values in (measured, people)))
    return RunOrder(
        measure=measure,
        kind=kind,
        n_questions=len(taus),
        within=with_interval(
            float(of_questions.mean()) if taus else None,
            by_row(lambda weights: ratio(weights @ of_questions, weights.sum(axis=1))),
            "correlation",
            np.array(queries, dtype=np.intp),
            seed=seed,
            why="no question with answers that both tell apart",
        ),
        n_answers=len(both),
        soft_accuracy=soft,
        kendall=of_means,
    )
