"""Show the table of judged pairs as sections, flat records and plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qilin_rag.agreement.figure_cells import figure_cell, with_heading
from qilin_rag.agreement.forests import JUDGES, plot_aspect
from qilin_rag.agreement.intervals import AgreementFigure
from qilin_rag.agreement.pair_table import AspectAgreement, PairAgreement
from qilin_rag.agreement.system_order import HOW, order_figures, order_sections
from qilin_rag.agreement.verdict import verdict
from qilin_rag.core.text import counted
from qilin_rag.reports.sections import Section

_COLUMNS = ("pearson", "spearman", "kendall", "accuracy")
_HEADER = ["measure", "rank", "Pearson", "Spearman", "Kendall", "accuracy"]
_HOW = (
    "Each figure compares the score of b less that of a with what each judge said; below or beside it is its 95% "
    "interval, from draws of queries.",
    "accuracy: pairwise, with the threshold for ties that makes it highest. rank: measures of one rank can't be told "
    "apart (permutation tests, Holm).",
    "Sentinels see nothing that makes an answer good: a measure must agree with people significantly better than each. "
    "Any two are compared on the judgements that both score.",
)


def pair_sections(table: PairAgreement, between: str = " ") -> Iterator[Section]:
    """Yield a section for each aspect, then how it was made.

    Args:
        table: The table.
        between: The text between a figure and its interval.
    """
    for aspect in table.aspects:
        title = (
            f"{aspect.aspect}: {counted(table.n_pairs, 'pair')}, {counted(aspect.n_judgements, 'judgement')}, "
            f"{counted(table.n_queries, 'query', 'queries')}"
        )
        plot = plot_aspect(aspect, table.by)
        yield Section(title, _HEADER, list(_rows(aspect, between)), verdict(aspect, table.by), plot)
    yield from order_sections(table.orders)
    yield Section("how to read it", [], [], [*_HOW, *([HOW] if table.orders else [])])


def _rows(aspect: AspectAgreement, between: str) -> Iterator[list[str]]:
    if aspect.ceiling:
        yield [JUDGES, "", *(figure_cell(getattr(aspect.ceiling, name), between) for name in _COLUMNS)]
    yield from with_heading(
        (
            row.kind,
            [
                row.measure,
                "" if row.rank is None else str(row.rank),
                *(figure_cell(getattr(row, name), between) for name in _COLUMNS),
            ],
        )
        for row in aspect.rows
    )


def pair_document(table: PairAgreement) -> dict[str, Any]:
    """Return the table as plain data, with the verdict of each aspect."""
    document = table.model_dump(mode="json")
    for aspect, shown in zip(table.aspects, document["aspects"], strict=True):
        shown["verdict"] = verdict(aspect, table.by)
    return document


def pair_records(table: PairAgreement) -> list[dict[str, object]]:
    """Return one flat record for each aspect and measure, for CSV; the judges among themselves are a row as well."""
    records: list[dict[str, object]] = []
    of_systems = order_figures(table.orders)
    for aspect in table.aspects:
        if aspect.ceiling:
            about = {"measure": JUDGES, "kind": "ceiling", "n": aspect.ceiling.n}
            records.append({"aspect": aspect.aspect, **about, **_figures(aspect.ceiling)})
        for row in aspect.rows:
            about = {"measure": row.measure, "kind": row.kind, "n": row.n, "rank": row.rank}
            about |= {"epsilon": row.epsilon, "p_beyond_sentinels": row.p_beyond_sentinels}
            about |= _figures(row) | of_systems.get((aspect.aspect, row.measure), {})
            records.append({"aspect": aspect.aspect, **about})
    return records


def _figures(of: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in _COLUMNS:
        figure: AgreementFigure = getattr(of, name)
        low, high = figure.ci95 or (None, None)
        found |= {name: figure.value, f"{name}_low": low, f"{name}_high": high, f"{name}_reason": figure.reason}
    return found
