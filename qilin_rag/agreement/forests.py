"""Plot tables of agreement: the measures with their intervals, the people's own agreement, and the sentinels apart."""

from __future__ import annotations

from collections.abc import Mapping

from qilin_rag.agreement.calibration import Calibration
from qilin_rag.agreement.comparing import Statistic
from qilin_rag.agreement.figure_cells import figure_cell, share_cells
from qilin_rag.agreement.intervals import AgreementFigure
from qilin_rag.agreement.pair_table import AspectAgreement
from qilin_rag.agreement.qilin_table import LabelTable
from qilin_rag.agreement.rated_answers import RatedAspect
from qilin_rag.agreement.verdict import STATISTIC_NAMES
from qilin_rag.reports.forest import Forest, ForestRow, RowLook

JUDGES = "one judge, another"
"""The name of the agreement of the judges."""
CHOICE, MOST_FREQUENT = "the best of the other folds", "what people say most"
"""The names of a choice by cross-validation, and of what it must beat."""
_SENTINELS = "sentinels"
_BETWEEN = "\u2002"
_MEANINGS: Mapping[RowLook, str] = {
    "ceiling": "bar and band: one judge against another, the ceiling",
    "named": "filled: agrees beyond every sentinel",
    "measure": "hollow: not shown to be beyond the sentinels",
    "sentinel": "square: a sentinel, which must not win",
}


def plot_aspect(aspect: AspectAgreement, by: Statistic) -> Forest:
    """Plot the measures of one aspect, by rank.

    Args:
        aspect: The table.
        by: The statistic by which it was ranked.
    """
    rows = []
    for row in aspect.rows:
        if row.kind == "sentinel":
            look, group = _look(row.kind), _SENTINELS
        else:
            look = _look(row.kind, row.is_beyond_sentinels)
            group = "no rank" if row.rank is None else f"rank {row.rank}"
        rows.append(_row(row.measure, getattr(row, by), look, group))
    ceiling = _row(JUDGES, getattr(aspect.ceiling, by), "ceiling") if aspect.ceiling else None
    reference = None if by == "accuracy" else 0.0
    return Forest(aspect.aspect, _axis(STATISTIC_NAMES[by]), rows, reference, _MEANINGS, ceiling)


def plot_label(table: LabelTable) -> Forest:
    """Plot the AUC of the measures of one label.

    Args:
        table: The table.
    """
    rows = [
        _row(row.measure, row.auc, _look(row.kind, row.is_beyond_sentinels), _group(row.kind), is_share=True)
        for row in table.rows
    ]
    return Forest(table.label, _axis("AUC"), rows, 0.5, _MEANINGS)


def plot_order(order: RatedAspect) -> Forest:
    """Plot how far measures order the answers to a question as people do.

    Args:
        order: The table.
    """
    rows = [_row(row.measure, row.within, _look(row.kind), _group(row.kind)) for row in order.rows]
    meanings: Mapping[RowLook, str] = {"measure": "dot: a measure", "sentinel": _MEANINGS["sentinel"]}
    return Forest(f"{order.aspect}, order of answers", _axis("Kendall within questions"), rows, 0.0, meanings)


def plot_calibration(found: Calibration) -> Forest:
    """Plot the agreement of a choice among judges with labels that it did not see.

    Args:
        found: The choice.
    """
    choice: RowLook = "named" if found.is_shown else "measure"
    rows = [
        _row(CHOICE, found.held_out, choice, is_share=True),
        _row(MOST_FREQUENT, found.most_frequent, "sentinel", is_share=True),
        *(_row(each.judge, each.held_out, "measure", "each judge alone", is_share=True) for each in found.judges),
    ]
    meanings: Mapping[RowLook, str] = {
        "named": "filled: the choice, shown to beat the square",
        "measure": "hollow: a judge alone, or a choice not shown to",
        "sentinel": "square: always saying what people say most",
    }
    return Forest(found.aspect, _axis("share of held-out judgements"), rows, None, meanings)


def _row(name: str, figure: AgreementFigure, look: RowLook, group: str = "", is_share: bool = False) -> ForestRow:
    shown = _BETWEEN.join(filter(None, share_cells(figure))) if is_share else figure_cell(figure, _BETWEEN)
    return ForestRow(
        name, figure.value, figure.ci95, figure.reason or shown if figure.value is None else shown, look, group
    )


def _look(kind: str, is_named: bool = False) -> RowLook:
    return "sentinel" if kind == "sentinel" else "named" if is_named else "measure"


def _group(kind: str) -> str:
    return _SENTINELS if kind == "sentinel" else ""


def _axis(statistic: str) -> str:
    return f"{statistic}, with 95% intervals"
