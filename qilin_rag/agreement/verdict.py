"""Say in words which measures people agree with beyond the sentinels, and how far below the judges they stay."""

from __future__ import annotations

from collections.abc import Iterator

from qilin_rag.agreement.comparing import Statistic
from qilin_rag.agreement.figure_cells import lines_by_remark
from qilin_rag.agreement.pair_table import AspectAgreement, MeasureAgreement
from qilin_rag.core.text import counted

STATISTIC_NAMES: dict[Statistic, str] = {"pearson": "Pearson", "spearman": "Spearman", "accuracy": "accuracy"}


def verdict(aspect: AspectAgreement, by: Statistic) -> list[str]:
    """Return what the table of an aspect says, a sentence each.

    Args:
        aspect: The table.
        by: The statistic by which it was ranked.
    """
    measures = [row for row in aspect.rows if row.kind == "measure"]
    beyond = [row for row in measures if row.is_beyond_sentinels]
    said = []
    if aspect.strongest_sentinel is None:
        said.append("No sentinel can be compared, so no measure is named the best.")
    elif not beyond:
        said.append(
            f"No measure agrees with people beyond the sentinels (the strongest: {aspect.strongest_sentinel}), so none "
            "is named the best."
        )
    else:
        best = [row for row in beyond if row.rank == beyond[0].rank]
        rest = [row for row in beyond if row not in best]
        said.append(best_named("People agree", _listed(best, by), len(best), is_highest=beyond[0] is measures[0]))
        if rest:
            said.append(f"Beyond the sentinels, too: {_listed(rest, by)}.")
        said.append(_below_ceiling(beyond[0], aspect, by))
    if without := [row.measure for row in measures if not row.is_beyond_sentinels]:
        said.append(f"Not shown to be beyond the sentinels: {', '.join(without)}.")
    if aspect.detectable is not None:
        said.append(
            f"These labels show a difference to {aspect.strongest_sentinel} of {aspect.detectable:.2f} or more "
            "four times in five."
        )
    if aspect.ceiling and aspect.ceiling.alpha is not None:
        said.append(f"The judges among themselves: Krippendorff's alpha {aspect.ceiling.alpha:.2f} (ordinal).")
    return [*said, *lines_by_remark(_remarks(aspect, by))]


def _remarks(aspect: AspectAgreement, by: Statistic) -> Iterator[tuple[str, str]]:
    """Yield which measures lack scores, a figure or an interval, and why."""
    for row in aspect.rows:
        if row.n < aspect.n_judgements:
            yield row.measure, f"{row.n} of {counted(aspect.n_judgements, 'judgement')} scored"
        figure = getattr(row, by)
        if figure.reason and row.n:
            missing = f"no {STATISTIC_NAMES[by]}" if figure.value is None else "no interval"
            yield row.measure, f"{missing}, {figure.reason}"


def best_named(subject: str, best: str, n: int, is_highest: bool) -> str:
    """Return the sentence that names the best measures beyond the sentinels.

    Args:
        subject: Who agrees, with the verb.
        best: The measures.
        n: The number of these measures.
        is_highest: Whether the first of them has the highest figure of all measures. A higher one may not be shown to
            be beyond the sentinels, such as that of a measure of few answers.

    >>> best_named("People agree", "chrf", 1, is_highest=True)
    'People agree most with chrf, beyond the sentinels.'
    """
    most = " most" if is_highest else ""
    said = f"{subject}{most} with {best}, beyond the sentinels."
    if n > 1:
        said = f"{subject}{most} with one of these, beyond the sentinels; the labels can't tell which: {best}."
    return said if is_highest else f"{said} A higher figure is not shown to be beyond them."


def _listed(rows: list[MeasureAgreement], by: Statistic) -> str:
    return ", ".join(f"{row.measure} ({STATISTIC_NAMES[by]} {getattr(row, by).value:.2f})" for row in rows)


def _below_ceiling(best: MeasureAgreement, aspect: AspectAgreement, by: Statistic) -> str:
    """Return how far the measure with the highest figure is below the judges."""
    ceiling = getattr(aspect.ceiling, by).value if aspect.ceiling else None
    if ceiling is None:
        return "No two judges judged the same answers, so there is no ceiling to compare with."
    below = ceiling - getattr(best, by).value
    place = f"{below:.2f} below" if below >= 0 else f"{-below:.2f} above"
    return f"{best.measure} is {place} one judge against another ({ceiling:.2f})."
