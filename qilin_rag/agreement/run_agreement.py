"""Make and show the tables of labels of runs: pairs, single answers, and the order of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qilin_rag.agreement.comparing import Statistic
from qilin_rag.agreement.figure_cells import figure_cell, lines_by_remark, value_cell, with_heading
from qilin_rag.agreement.forests import plot_order
from qilin_rag.agreement.label_rows import LabelRow
from qilin_rag.agreement.pair_sections import pair_document, pair_records, pair_sections
from qilin_rag.agreement.pair_table import PairAgreement, pair_agreement
from qilin_rag.agreement.rated_answers import FEWEST_RUNS, RatedAspect, RunOrder, answer_agreement, run_orders
from qilin_rag.agreement.run_labels import join_labels, pair_aspect
from qilin_rag.agreement.system_order import few_points
from qilin_rag.agreement.verdict import STATISTIC_NAMES
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen
from qilin_rag.reports.measured import Measured
from qilin_rag.reports.sections import Section


class RunAgreement(Frozen):
    """How far measures agree with labels of runs.

    Attributes:
        runs: The names of the runs.
        n_labels: The number of labels of these runs.
        annotators: The annotators.
        remarks: Remarks on labels and measures that were left out.
        pairs: The table of pairs of answers; None without any.
        answers: The table of single answers; None without ratings.
        orders: The order of answers within questions, and of the runs, by aspect.
    """

    runs: list[str]
    n_labels: int
    annotators: list[str]
    remarks: list[str]
    pairs: PairAgreement | None
    answers: PairAgreement | None
    orders: list[RatedAspect]


def run_agreement(
    rows: Sequence[LabelRow], runs: Sequence[Measured], by: Statistic = "pearson", seed: int = 0
) -> RunAgreement:
    """Compare the measures of runs with people's labels of their answers.

    Args:
        rows: The labels.
        runs: The runs with their scores.
        by: The statistic by which measures are compared and ranked.
        seed: Draws resamples, exchanges and permuted answers.

    Raises:
        UsageError: if no label is of these runs.
    """
    joined = join_labels(rows, runs, seed)
    pairs, answers, orders = None, None, []
    if joined.pairs:
        pairs = pair_agreement(*joined.pairs, by, seed)
    if joined.answers:
        answers = answer_agreement(*joined.answers, by, seed)
        orders = run_orders(*joined.answers, seed)
    if pairs:
        rated = {pair_aspect(order.aspect) for order in orders}
        pairs = pairs.model_copy(update={"orders": [each for each in pairs.orders if each.aspect not in rated]})
    return RunAgreement(
        runs=[run.name for run in runs],
        n_labels=joined.n_labels,
        annotators=joined.annotators,
        remarks=joined.remarks,
        pairs=pairs,
        answers=answers,
        orders=orders,
    )


def run_sections(found: RunAgreement, between: str = " ") -> Iterator[Section]:
    """Yield the labels, a section for each table, and how they were made.

    Args:
        found: The tables.
        between: The text between a figure and its interval.
    """
    labels = f"{counted(found.n_labels, 'label')} by {counted(len(found.annotators), 'annotator')}"
    yield Section("labels", [], [], [f"{labels}, of {counted(len(found.runs), 'run')}", *found.remarks])
    how: list[str] = []
    for table, is_pairs in ((found.pairs, True), (found.answers, False)):
        if table is None:
            continue
        *aspects, last = pair_sections(table, between)
        how = how or last.lines
        if is_pairs:
            yield from aspects
            continue
        for aspect, section in zip(table.aspects, aspects, strict=True):
            name = f"{aspect.aspect} of single answers"
            ratings = f"{counted(aspect.n_judgements, 'rating')}, {counted(table.n_queries, 'query', 'queries')}"
            title = f"{name}: {counted(table.n_pairs, 'answer')}, {ratings}"
            rows = [row[:-1] for row in section.rows]
            plot = section.plot and section.plot._replace(name=name)
            yield Section(title, section.header[:-1], rows, section.lines, plot)
        how = [
            *how,
            "Single answers: each figure compares scores with ratings, over the answers of all questions; measures are "
            f"ranked by {STATISTIC_NAMES[table.by]}.",
        ]
    if found.orders:
        yield from (_order_section(order, between) for order in found.orders)
        how.append(
            "within: the mean over questions of Kendall's tau-b between the answers of the runs. soft accuracy and "
            "Kendall: whether a measure orders the runs as people do (means of runs)."
        )
    yield Section("how to read it", [], [], how)


def _order_section(order: RatedAspect, between: str) -> Section:
    rows = with_heading((row.kind, _order_cells(row, between)) for row in order.rows)
    lines = lines_by_remark(
        (
            row.measure,
            f"no {'figure' if row.within.value is None else 'interval'} within questions, {row.within.reason}",
        )
        for row in order.rows
        if row.within.reason
    )
    if order.n_runs < FEWEST_RUNS:
        lines.append(f"{counted(order.n_runs, 'run')} with ratings: an order of runs needs {FEWEST_RUNS}.")
    else:
        lines.append(few_points(order.n_runs, "run"))
    title = f"{order.aspect}, order of answers and runs: {counted(order.n_answers, 'answer')}"
    return Section(
        title, ["measure", "questions", "within", "soft accuracy", "Kendall"], rows, lines, plot_order(order)
    )


def _order_cells(row: RunOrder, between: str) -> list[str]:
    of_runs = map(value_cell, (row.soft_accuracy, row.kendall))
    return [row.measure, str(row.n_questions), figure_cell(row.within, between), *of_runs]


def run_records(found: RunAgreement) -> list[dict[str, object]]:
    """Return one flat record for each table, aspect and measure, for CSV."""
    tables = {"pairs": found.pairs, "answers": found.answers}
    records = [{"of": of, **record} for of, table in tables.items() if table for record in pair_records(table)]
    for order in found.orders:
        for row in order.rows:
            low, high = row.within.ci95 or (None, None)
            about: dict[str, object] = {"of": "runs", "aspect": order.aspect, "measure": row.measure, "kind": row.kind}
            within = {"within": row.within.value, "within_low": low, "within_high": high}
            counts = {"n": row.n_answers, "n_questions": row.n_questions, "within_reason": row.within.reason}
            of_runs = {"soft_accuracy": row.soft_accuracy, "kendall_of_systems": row.kendall}
            records.append(about | counts | within | of_runs)
    return records


def run_document(found: RunAgreement) -> dict[str, Any]:
    """Return the tables as plain data, with the verdict of each."""
    tables = {
        name: pair_document(table) for name, table in (("pairs", found.pairs), ("answers", found.answers)) if table
    }
    return found.model_dump(mode="json") | tables
