"""Show which measures users of Qilin agree with, as sections, flat records and plain data, and say it in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qilin_rag.agreement.figure_cells import lines_by_remark, share_cell, share_cells, with_heading
from qilin_rag.agreement.forests import plot_label
from qilin_rag.agreement.qilin_answers import NO_RE_SEARCH
from qilin_rag.agreement.qilin_scores import CONSTANT, LENGTH, MEASURES, SENTINELS
from qilin_rag.agreement.qilin_table import FEWEST_ANSWERS, FEWEST_USERS, LabelTable, MeasureAuc, QilinAgreement
from qilin_rag.agreement.verdict import best_named
from qilin_rag.core.text import counted
from qilin_rag.reports.sections import Section

_COUNTS = ["label", "with it", "without", "unknown", "users", "AUC shown"]
_HEADER = ["measure", "answers", "AUC", "95% interval", "of all", "p"]
_NOISY = f"{NO_RE_SEARCH}: the user made no other search for the same need soon after. This label is noisy."
_HOW_COUNTS = (
    "AUC shown: the smallest one that so many answers show four times in five if they are independent. Answers to one "
    "user are not, so it is somewhat higher.",
)
_HOW = (
    "AUC: how often, of an answer with the label and one without, the first has the higher score; of two answers of "
    f"about one length, but of any length in the row {LENGTH} and in the column 'of all'. Below one half the measure "
    "disagrees. Intervals are from draws of users.",
    "p: of a higher AUC than every sentinel (exchanges of users' placements, Holm over measures; none if it is not "
    f"higher than each). The sentinel {LENGTH} is compared by the AUC 'of all'. A sentinel below one half counts as if "
    "it were as far above.",
    "No answer is compared with itself or a copy: measures use the query, the reference notes, or other favoured "
    "answers to the query.",
)


def qilin_sections(found: QilinAgreement) -> Iterator[Section]:
    """Yield the counts of the labels, then a section for each label that has enough answers, then how to read it.

    Args:
        found: The tables.
    """
    title = (
        f"{counted(found.n_answers, 'answer')}, {counted(found.n_queries, 'query', 'queries')}, "
        f"{counted(found.n_users, 'user')}"
    )
    rows = [_count_row(table) for table in found.labels]
    yield Section(title, _COUNTS, rows, [*_stops(found), *_HOW_COUNTS, *_about(found)])
    compared = [table for table in found.labels if table.why_stopped is None]
    for table in compared:
        yield Section(table.label, _HEADER, _rows(table), label_verdict(table), plot_label(table))
    if compared:
        named = dict.fromkeys(row.measure for table in compared for row in table.rows)
        meanings = [f"{name}: {meaning}" for name, meaning in (MEASURES | SENTINELS).items() if name in named]
        yield Section("how to read it", [], [], [*_HOW, *meanings])


def _about(found: QilinAgreement) -> list[str]:
    return [_NOISY] * any(table.label == NO_RE_SEARCH for table in found.labels) + found.remarks


def _stops(found: QilinAgreement) -> Iterator[str]:
    """Yield why labels were not compared with measures."""
    yield from lines_by_remark(
        (table.label, f"not compared, {table.why_stopped}") for table in found.labels if table.why_stopped is not None
    )
    if found.labels and all(table.why_stopped for table in found.labels):
        yield (
            "These answers can't tell which measures users agree with: they give no AUC, no interval and no comparison "
            f"with a sentinel. Each label needs at least {FEWEST_ANSWERS} answers with it, {FEWEST_ANSWERS} without "
            f"it, and {FEWEST_USERS} users."
        )


def label_verdict(table: LabelTable) -> list[str]:
    """Return what the table of a label says, a sentence each.

    Args:
        table: The table.
    """
    if table.why_stopped is not None:
        return [f"Not compared: {table.why_stopped}."]
    measures = [row for row in table.rows if row.kind == "measure"]
    best = [row for row in measures if row.is_best]
    rest = [row for row in measures if row.is_beyond_sentinels and not row.is_best]
    said = []
    if not best:
        said.append(f"No measure agrees with {table.label} beyond the sentinels, so none is named the best.")
    else:
        said.append(best_named(f"{table.label} agrees", _named(best), len(best), is_highest=best[0] is measures[0]))
    if rest:
        said.append(f"Beyond the sentinels, too: {_named(rest)}.")
    blockers: dict[str, list[str]] = {}
    for row in measures:
        if row.hardest_sentinel and not row.is_beyond_sentinels:
            blockers.setdefault(row.hardest_sentinel, []).append(row.measure)
    said += [f"Not shown to be better than {name}: {', '.join(rows)}." for name, rows in blockers.items()]
    if against := [row.measure for row in measures if row.auc.ci95 and row.auc.ci95[1] < 0.5]:
        said.append(f"Below one half, so they disagree: {', '.join(against)}.")
    return [*said, *lines_by_remark(_remarks(table))]


def _remarks(table: LabelTable) -> Iterator[tuple[str, str]]:
    """Yield which measures lack a figure, an interval or a comparison, and why."""
    for row in table.rows:
        if row.auc.reason and row.measure != CONSTANT:
            yield row.measure, f"{'no AUC' if row.auc.value is None else 'no interval'}, {row.auc.reason}"
        elif row.kind == "measure" and row.hardest_sentinel is None:
            yield row.measure, "no comparison, too few answers have the scores of a sentinel"


def _named(rows: list[MeasureAuc]) -> str:
    return ", ".join(f"{row.measure} (AUC {row.auc.value:.2f})" for row in rows)


def _count_row(table: LabelTable) -> list[str]:
    numbers = [table.n_positive, table.n_negative, table.n_unknown, table.n_users]
    return [table.label, *map(str, numbers), "none" if table.detectable is None else f"{table.detectable:.3f}"]


def _rows(table: LabelTable) -> list[list[str]]:
    return with_heading((row.kind, _cells(row)) for row in table.rows)


def _cells(row: MeasureAuc) -> list[str]:
    p = "" if row.p_beyond_sentinels is None else f"{row.p_beyond_sentinels:.4f}"
    return [row.measure, str(row.n), *share_cells(row.auc), share_cell(row.auc_of_all), p]


def qilin_document(found: QilinAgreement) -> dict[str, Any]:
    """Return the tables as plain data, with the verdict of each label.

    Args:
        found: The tables.
    """
    document = found.model_dump(mode="json")
    for table, shown in zip(found.labels, document["labels"], strict=True):
        shown["verdict"] = label_verdict(table)
    return document


def qilin_records(found: QilinAgreement) -> list[dict[str, object]]:
    """Return one flat record for each label and measure, for CSV; a label that was not compared has one without.

    Args:
        found: The tables.
    """
    records: list[dict[str, object]] = []
    for table in found.labels:
        about = table.model_dump(exclude={"rows"})
        records += [{**about, **_record(row)} for row in table.rows] or [about]
    return records


def _record(row: MeasureAuc) -> dict[str, object]:
    names = ("measure", "kind", "n", "auc_of_all", "hardest_sentinel", "p_beyond_sentinels", "is_best")
    low, high = row.auc.ci95 or (None, None)
    of_auc = {"auc": row.auc.value, "auc_low": low, "auc_high": high, "auc_reason": row.auc.reason}
    return {name: getattr(row, name) for name in names} | of_auc
