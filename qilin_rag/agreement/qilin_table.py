"""Tell which measures separate the answers that users favoured from the others, label by label.

The AUC of a measure is within strata of length, with draws of users for its interval. A measure is named only if its
AUC is significantly higher than that of every sentinel: within strata of length, and for the length itself without
strata on both sides. The sentinel `constant` has an AUC of one half, so a named measure is above one half, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from qilin_rag.agreement.auc import auc, aucs, detectable_auc, quantile_strata
from qilin_rag.agreement.correlations import plain
from qilin_rag.agreement.intervals import AgreementFigure
from qilin_rag.agreement.placements import additions, p_of_differences
from qilin_rag.agreement.qilin_answers import LabelledAnswers
from qilin_rag.agreement.qilin_scores import LENGTH, score_measures, score_sentinels
from qilin_rag.core.progress import stage
from qilin_rag.core.stats import ALPHA, FEWEST_FOR_INTERVAL, Booleans, Clusters, Values, holm
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen

FEWEST_ANSWERS = 10
"""The fewest answers with the label, and without it."""
FEWEST_USERS = FEWEST_FOR_INTERVAL
"""The fewest users."""
N_STRATA = 5


class MeasureAuc(Frozen):
    """How well one measure separates the answers of a label from the others.

    Attributes:
        measure: Its name.
        kind: `measure`, or `sentinel`.
        n: The number of answers that it scores.
        auc: The AUC within strata of length, of the length itself without strata. Below one half it disagrees.
        auc_of_all: The AUC without strata.
        hardest_sentinel: The sentinel that it is least clearly better than; None for a sentinel.
        p_beyond_sentinels: Holm's p of a higher AUC than every sentinel; None if it is not higher.
        is_best: Whether it is named: beyond the sentinels, and not significantly below the best one that is.
    """

    measure: str
    kind: Literal["measure", "sentinel"]
    n: int
    auc: AgreementFigure
    auc_of_all: float | None
    hardest_sentinel: str | None = None
    p_beyond_sentinels: float | None = None
    is_best: bool = False

    @property
    def is_beyond_sentinels(self) -> bool:
        """Whether it agrees with the label beyond the sentinels."""
        return self.p_beyond_sentinels is not None and self.p_beyond_sentinels <= ALPHA


class LabelTable(Frozen):
    """The counts of one label, and the measures compared on it.

    Attributes:
        label: Its name.
        n_positive: The number of answers with it.
        n_negative: The number of answers without it.
        n_unknown: The number of answers for which it is not known.
        n_users: The number of users with a known label.
        detectable: The smallest AUC that so many independent answers show four times in five; None if none.
        why_stopped: Why nothing was compared; None if the measures were.
        rows: The measures, best first, then the sentinels.
    """

    label: str
    n_positive: int
    n_negative: int
    n_unknown: int
    n_users: int
    detectable: float | None
    why_stopped: str | None
    rows: list[MeasureAuc] = []


class QilinAgreement(Frozen):
    """The tables of all labels.

    Attributes:
        n_answers: The number of answers that were shown.
        n_queries: The number of distinct queries.
        n_users: The number of users.
        seed: The seed of the draws.
        remarks: What the data lacks.
        labels: The table of each label.
    """

    n_answers: int
    n_queries: int
    n_users: int
    seed: int
    remarks: list[str]
    labels: list[LabelTable]


class _LabelledRows(NamedTuple):
    """The answers whose label is known: whether they have it, their users, and their strata of length."""

    flags: Booleans
    users: Clusters
    strata: Clusters

    def where(self, rows: Booleans) -> _LabelledRows:
        return _LabelledRows(self.flags[rows], self.users[rows], self.strata[rows])

    def too_few(self) -> str | None:
        n_yes, n_no = int(self.flags.sum()), int((~self.flags).sum())
        n_users = len(np.unique(self.users))
        if min(n_yes, n_no) >= FEWEST_ANSWERS and n_users >= FEWEST_USERS:
            return None
        return (
            f"{n_yes} with the label and {n_no} without, of {counted(n_users, 'user')}; "
            f"at least {FEWEST_ANSWERS}, {FEWEST_ANSWERS} and {FEWEST_USERS} are needed"
        )

    def by(self, is_length: bool) -> _LabelledRows:
        """Return the rows with the strata of a comparison: with the length itself, none."""
        return self._replace(strata=np.zeros_like(self.strata)) if is_length else self


def qilin_agreement(answers: LabelledAnswers, seed: int = 0) -> QilinAgreement:
    """Compare the measures of answers with what users did.

    Args:
        answers: The answers with their labels.
        seed: Draws the users, the exchanges and the permuted answers.

    Returns:
        A table for each label; one with too few answers has its counts only.

    >>> texts = ["冷藏12小时[第1篇](#)", "水温92度", "先晾干"]
    >>> labels = {"engaged": np.array([1, 0, 1])}
    >>> answers = LabelledAnswers(["冷萃", "手冲", "多肉"], texts, [[], [], []], np.arange(3), labels)
    >>> qilin_agreement(answers).labels[0].why_stopped
    '2 with the label and 1 without, of 3 users; at least 10, 10 and 20 are needed'
    """
    tables = [_counts(name, answers) for name in answers.labels]
    if any(table.why_stopped is None for table in tables):
        measures, sentinels = score_measures(answers, seed), score_sentinels(answers, seed)
        with stage("agreement with labels", len(tables)) as advance:
            for place, table in enumerate(tables):
                if table.why_stopped is None:
                    rows = label_rows(answers.labels[table.label], answers.users, measures, sentinels, seed)
                    tables[place] = table.model_copy(update={"rows": rows})
                advance()
    return QilinAgreement(
        n_answers=len(answers.texts),
        n_queries=len(set(answers.queries)),
        n_users=len(np.unique(answers.users)),
        seed=seed,
        remarks=list(answers.remarks),
        labels=tables,
    )


def _counts(name: str, answers: LabelledAnswers) -> LabelTable:
    label = answers.labels[name]
    known = label >= 0
    n_positive, n_negative = int((label == 1).sum()), int((label == 0).sum())
    detectable = detectable_auc(n_positive, n_negative)
    rows = _LabelledRows(label[known] == 1, answers.users[known], np.zeros(int(known.sum()), dtype=np.intp))
    return LabelTable(
        label=name,
        n_positive=n_positive,
        n_negative=n_negative,
        n_unknown=int((~known).sum()),
        n_users=len(np.unique(rows.users)),
        detectable=detectable.value,
        why_stopped=rows.too_few() or detectable.reason,
    )


def label_rows(
    label: Values | Clusters,
    users: Clusters,
    measures: Mapping[str, Values],
    sentinels: Mapping[str, Values],
    seed: int = 0,
) -> list[MeasureAuc]:
    """Compare measures and sentinels on one label.

    Args:
        label: 1 or 0 for each answer, -1 if it is not known, shape (n,).
        users: The user of each answer.
        measures: The score of each answer by measure; NaN for unscored ones.
        sentinels: Likewise; one of them is the length.
        seed: Draws the users and the exchanges.

    Returns:
        The measures, best first, then the sentinels.
    """
    known = label >= 0
    strata = quantile_strata(sentinels[LENGTH][known].tolist(), N_STRATA)
    rows = _LabelledRows(label[known] == 1, users[known], strata)
    scores = {name: values[known] for name, values in measures.items()}
    rivals = {name: values[known] for name, values in sentinels.items()}
    beyond = _beyond({name: _rivalries(values, rivals, rows) for name, values in scores.items()}, rows.users, seed)
    tested = [name for name, each in beyond.items() if each]
    adjusted = holm([each.p for each in beyond.values() if each])
    p = {name: p for name, p in zip(tested, adjusted, strict=True) if (each := beyond[name]) and each.gain > 0}
    table = [
        MeasureAuc(
            measure=name,
            kind="measure",
            hardest_sentinel=each.sentinel if (each := beyond[name]) else None,
            p_beyond_sentinels=p.get(name),
            **_figures(values, rows, seed),
        )
        for name, values in scores.items()
    ]
    table.sort(key=lambda row: np.inf if row.auc.value is None else -row.auc.value)
    table = _with_best(table, scores, rows, seed)
    return table + [
        MeasureAuc(measure=name, kind="sentinel", **_figures(values, rows.by(name == LENGTH), seed))
        for name, values in rivals.items()
    ]


def _figures(scores: Values, rows: _LabelledRows, seed: int) -> dict[str, Any]:
    scored = ~np.isnan(scores)
    these, values = rows.where(scored), scores[scored]
    if too_few := these.too_few():
        return {"n": len(values), "auc": AgreementFigure(value=None, reason=too_few), "auc_of_all": None}
    found = auc(values, these.flags, these.users, these.strata, seed)
    return {"n": len(values), "auc": found, "auc_of_all": _auc(values, these.by(is_length=True))}


def _auc(scores: Values, rows: _LabelledRows) -> float | None:
    return plain(aucs(scores, rows.flags, np.ones((1, len(scores))), rows.strata))


class _Rivalry(NamedTuple):
    """A measure against a sentinel: its gain in AUC, and what each answer adds to it, NaN if one is unscored."""

    sentinel: str
    gain: float
    differences: Values


class _Beyond(NamedTuple):
    """By how much a measure is above the sentinel that it is least clearly better than, and the p of no difference."""

    gain: float
    p: float
    sentinel: str


def _rivalries(scores: Values, rivals: Mapping[str, Values], rows: _LabelledRows) -> list[_Rivalry]:
    """Compare a measure with each sentinel on the answers that both score; with none if these are too few for one.

    A sentinel below one half could be turned round by anybody, so it counts as far above it.
    """
    found = []
    for name, rival in rivals.items():
        if np.isnan(rival).all():
            continue
        both = ~np.isnan(scores) & ~np.isnan(rival)
        these, mine, theirs = rows.where(both).by(name == LENGTH), scores[both], rival[both]
        if these.too_few() or (of_rival := _auc(theirs, these)) is None:
            return []
        turned = -theirs if of_rival < 0.5 else theirs
        differences = np.full(len(both), np.nan)
        differences[both] = _added(mine, these) - _added(turned, these)
        found.append(_Rivalry(name, float(np.nansum(differences)), differences))
    return found


def _added(scores: Values, rows: _LabelledRows) -> Values:
    return additions(scores, rows.flags, rows.strata)


def _beyond(rivalries: Mapping[str, Sequence[_Rivalry]], users: Clusters, seed: int) -> dict[str, _Beyond | None]:
    """Return by how much each measure is beyond the sentinels; None if it can't be compared.

    The measure must be higher than each, so its p is the highest of those (an intersection-union test, Berger 1982), 1
    if it is not higher.
    """
    tested = [each for several in rivalries.values() for each in several if each.gain > 0]
    p = iter(p_of_differences(np.stack([each.differences for each in tested], axis=1), users, seed) if tested else [])
    found = {
        name: [_Beyond(each.gain, next(p) if each.gain > 0 else 1.0, each.sentinel) for each in several]
        for name, several in rivalries.items()
    }
    return {name: max(several, key=lambda each: (each.p, -each.gain), default=None) for name, several in found.items()}


def _with_best(
    table: list[MeasureAuc], scores: Mapping[str, Values], rows: _LabelledRows, seed: int
) -> list[MeasureAuc]:
    """Mark the best of the measures beyond the sentinels, and those that can't be told from it."""
    beyond = [row.measure for row in table if row.is_beyond_sentinels]
    if not beyond:
        return table
    first, others = beyond[0], beyond[1:]
    differences = np.full((len(rows.flags), len(others)), np.nan)
    for column, name in enumerate(others):
        both = ~np.isnan(scores[first]) & ~np.isnan(scores[name])
        these = rows.where(both)
        differences[both, column] = _added(scores[first][both], these) - _added(scores[name][both], these)
    p = holm(p_of_differences(differences, rows.users, seed))
    best = {first, *(name for name, each in zip(others, p, strict=True) if each > ALPHA)}
    return [row.model_copy(update={"is_best": True}) if row.measure in best else row for row in table]
