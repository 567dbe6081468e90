"""Compare two runs by question: the difference of each metric, its interval, and the questions that moved most."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.figure_store import kept_figures
from qilin_rag.core.stats import ALPHA, Clusters, PairedTest, Values, paired_tests
from qilin_rag.core.tables import as_frame, as_html
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen
from qilin_rag.reports.cells import could_be_shown
from qilin_rag.reports.measured import (
    Measured,
    clusters_of,
    highest_is_best,
    read_run,
    rests_on_reference_notes,
    same_questions,
    values_of,
)
from qilin_rag.reports.run_list import describe_statuses
from qilin_rag.reports.sections import Section

if TYPE_CHECKING:
    from pandas import DataFrame

_EQUAL = 1e-9  # two scores closer than this are a tie


class Moved(Frozen):
    """A question with its figures in both runs."""

    question_id: str
    query: str
    value_a: float
    value_b: float


class MetricComparison(Frozen):
    """One metric over the `n` questions scored in both runs; `difference` is A's mean minus B's.

    `p` and `ci95` come from one paired sign-flip test of this metric alone: the interval excludes 0 if and only if p is
    at most .05. `detectable` is the smallest true difference that these questions would show four times in five.
    `no_interval` and `undetectable` say why there is none.
    """

    metric: str
    signature: str
    n: int
    value_a: float
    value_b: float
    difference: float
    wins: int
    ties: int
    losses: int
    ci95: tuple[float, float] | None
    p: float | None
    detectable: float | None
    no_interval: str | None = None
    undetectable: str | None = None


class Comparison(Frozen):
    """The comparison of two runs, A and B, question by question; `qilin_rag.compare` makes it.

    Attributes:
        run_a: The name of run A.
        run_b: The name of run B.
        n_questions: The number of questions that both runs have.
        n_clusters: The number of clusters of these questions.
        metrics: One `MetricComparison` for each metric that both runs have.
        moved_by: The metric by which questions count as moved.
        better_a: Questions in which A is higher, the largest change first.
        better_b: Questions in which B is higher, the largest change first.
        notes: Remarks on what was left out, and why.
        unit: The name of one thing compared: question, or request for rankings.

    Example:
        >>> import qilin_rag as qr
        >>> none, oracle = (qr.run(retriever=name, metrics="rouge_l", limit=20) for name in ("none", "oracle"))
        >>> frame = qr.compare(oracle, none).to_frame().set_index("metric")
        >>> bool(frame.loc["rouge_l", "difference"] > 0)
        True
    """

    run_a: str
    run_b: str
    n_questions: int
    n_clusters: int
    metrics: list[MetricComparison]
    moved_by: str
    better_a: list[Moved]
    better_b: list[Moved]
    notes: list[str]
    unit: str = "question"

    def to_frame(self) -> DataFrame:
        """Return the comparison as a pandas DataFrame with a row for each metric.

        Raises:
            UsageError: pandas is not installed.
        """
        rows: list[dict[str, Any]] = []
        for each in self.metrics:
            low, high = each.ci95 or (None, None)
            record = {name: value for name, value in each.model_dump().items() if name != "ci95"}
            rows.append({**record, "ci95_low": low, "ci95_high": high})
        return as_frame(rows, numbers={"ci95_low", "ci95_high", "p", "detectable"})

    def _repr_html_(self) -> str:
        """Return the differences as an HTML table with the lines below it, as `compare` prints them, for a notebook."""
        section = section_of(self)
        header = [{"A": self.run_a, "B": self.run_b}.get(name, name) for name in section.header]
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in section.lines)
        return as_html(header, section.rows) + (f"<ul>{lines}</ul>" if lines else "")


def section_of(compared: Comparison) -> Section:
    """Return the differences of two runs by metric as a table, with lines below it."""
    rows, lines = [], []
    for each in compared.metrics:
        interval = f"{each.ci95[0]:+.4f} .. {each.ci95[1]:+.4f}" if each.ci95 else "-"
        counts = f"{each.wins}/{each.ties}/{each.losses}"
        figures = [f"{each.value_a:.4f}", f"{each.value_b:.4f}", f"{each.difference:+.4f}"]
        rows.append([each.metric, *figures, interval, "-" if each.p is None else f"{each.p:.4f}", counts])
        if each.n < compared.n_questions:
            lines.append(f"{each.metric}: {counted(each.n, compared.unit)} scored in both")
        if each.no_interval:
            lines.append(f"{each.metric}: no interval, {each.no_interval}")
        if each.p is not None and each.p > ALPHA:
            limit = f"smallest detectable difference: {each.detectable:.4f}" if each.detectable else each.undetectable
            lines.append(f"{each.metric}: no difference shown; {limit}")
    same = f" ({compared.n_clusters} distinct)" if compared.n_clusters < compared.n_questions else ""
    header = ["metric", "A", "B", "A - B", "95% interval", "p", "won/tied/lost"]
    return Section(f"{counted(compared.n_questions, compared.unit)}{same}", header, rows, [*lines, *compared.notes])


@kept_figures()
def compare(
    path_a: Path, path_b: Path, metric: str | None = None, cluster_by: str | None = None, n_moved: int = 5
) -> Comparison:
    """Compare two complete runs on the questions that both have with the same text and the same references.

    A question whose reference notes differ is left out of the figures that depend on them, and counted in `notes`.

    Args:
        path_a: The run directory of A.
        path_b: The run directory of B.
        metric: The metric by which questions count as moved. Default: the first that both runs have.
        cluster_by: The field of the questions' meta that makes clusters. Default: the query.
        n_moved: The number of moved questions to list for each side.

    Raises:
        UsageError: The runs have no question or no metric in common.
    """
    is_one_name = path_a.name == path_b.name
    a, b = (read_run(path, str(path) if is_one_name else None) for path in (path_a, path_b))
    ids, notes = _joined(a, b)
    shared = [name for name in a.summary.metrics if name in b.summary.metrics]
    alike = [name for name in shared if a.signature(name) == b.signature(name)]
    notes += [f"{name} left out: made in two ways" for name in shared if name not in alike]
    if not alike:
        raise UsageError(f"{path_a} and {path_b} have no metric in common; qilin-rag score adds metrics to a run")
    if metric is not None and metric not in alike:
        raise unknown_name("metric", metric, alike, "is not in both runs")
    of_answers = sorted(alike, key=lambda name: "@" in name)
    clusters = clusters_of([a.questions[question_id] for question_id in ids], cluster_by)
    pairs = [values_of([a, b], name, ids) for name in of_answers]
    notes += _leave_out_other_reference_notes(a, b, ids, of_answers, pairs)
    differences = np.stack([pair[:, 0] - pair[:, 1] for pair in pairs], axis=1)
    compared = [
        compare_metric(name, str(a.signature(name)), pair, test, clusters)
        for name, pair, test in zip(of_answers, pairs, paired_tests(differences, clusters), strict=True)
        if not np.isnan(pair.sum(axis=1)).all()
    ]
    unscored = set(of_answers) - {each.metric for each in compared}
    notes += [f"{name} left out: no question is scored in both runs" for name in sorted(unscored)]
    notes += [
        f"{each.metric}: the highest is not the best; won is higher, lost is lower"
        for each in compared
        if not highest_is_best(each.signature)
    ]
    moved_by = metric or of_answers[0]
    queries = [a.questions[each].query for each in ids]
    better_a, better_b = moved_most(ids, queries, pairs[of_answers.index(moved_by)], n_moved)
    return Comparison(
        run_a=a.name,
        run_b=b.name,
        n_questions=len(ids),
        n_clusters=len(np.unique(clusters)),
        metrics=compared,
        moved_by=moved_by,
        better_a=better_a,
        better_b=better_b,
        notes=notes,
    )


def _joined(a: Measured, b: Measured) -> tuple[list[str], list[str]]:
    """Return the questions that are the same in both runs, and remarks on the others."""
    shared = [question_id for question_id in a.questions if question_id in b.questions]
    same = same_questions(a.questions, b.questions)
    if not same:
        raise UsageError(f"{a.name} and {b.name} have no question in common")
    notes = []
    if len(same) < len(shared):
        notes.append(f"{len(shared) - len(same)} questions left out: same id, other text or references")
    alone = {run.name: len(run.questions) - len(shared) for run in (a, b)}
    notes += [f"{name}: {n} questions left out, the other run has none" for name, n in alone.items() if n]
    for run in (a, b):
        statuses = {status: n for status, n in run.summary.counts.items() if status != "questions"}
        notes += [f"{run.name}{said}"] if (said := describe_statuses(statuses)) else []
    return same, notes


def _leave_out_other_reference_notes(
    a: Measured, b: Measured, ids: Sequence[str], metrics: Sequence[str], pairs: Sequence[Values]
) -> list[str]:
    """Unscore questions whose reference notes differ between the runs, in the figures that depend on these notes.

    Returns:
        Remarks on what shows that the runs were made on different data.
    """
    notes = []
    records = [run.manifest.data for run in (a, b)]
    if records[0]["sha256"] != records[1]["sha256"]:
        versions = " and ".join(f"{record['label']} ({record['sha256'][:8]})" for record in records)
        notes.append(f"made on different data: {versions}; notes, recorded results or questions differ")
    differs = np.array(
        [set(a.questions[each].reference_notes) != set(b.questions[each].reference_notes) for each in ids], bool
    )
    if differs.any():
        resting = [name for name in metrics if rests_on_reference_notes(name)]
        for name, pair in zip(metrics, pairs, strict=True):
            if name in resting:
                pair[differs] = np.nan
        left_out = f", left out of {', '.join(resting)}" if resting else ""
        notes.append(f"{differs.sum()} of {len(ids)} questions have other reference notes in each run{left_out}")
    return notes


def compare_metric(name: str, signature: str, pair: Values, test: PairedTest, clusters: Clusters) -> MetricComparison:
    """Return the comparison of one metric; `pair` (n, 2) are its figures in A and B, NaN if unscored."""
    is_scored = ~np.isnan(pair.sum(axis=1))
    scored = pair[is_scored]
    difference = scored[:, 0] - scored[:, 1]
    shown = could_be_shown(difference, clusters[is_scored])
    return MetricComparison(
        metric=name,
        signature=signature,
        n=len(scored),
        value_a=float(scored[:, 0].mean()),
        value_b=float(scored[:, 1].mean()),
        difference=float(difference.mean()),
        wins=int((difference > _EQUAL).sum()),
        ties=int((np.abs(difference) <= _EQUAL).sum()),
        losses=int((difference < -_EQUAL).sum()),
        ci95=test.interval[:2] if test.interval else None,
        p=test.p,
        detectable=shown.difference,
        no_interval=test.no_interval,
        undetectable=shown.why_not,
    )


def moved_most(
    ids: Sequence[str], queries: Sequence[str], pair: Values, n_moved: int
) -> tuple[list[Moved], list[Moved]]:
    """Return the questions in which A is higher by most, and those in which B is; `pair` (n, 2) are their figures."""
    scored = np.flatnonzero(~np.isnan(pair).any(axis=1)).tolist()
    moved = [
        Moved(question_id=ids[i], query=queries[i], value_a=float(pair[i, 0]), value_b=float(pair[i, 1]))
        for i in sorted(scored, key=lambda i: (pair[i, 1] - pair[i, 0], ids[i]))
    ]
    better_a = [each for each in moved if each.value_a - each.value_b > _EQUAL][:n_moved]
    return better_a, [each for each in moved[::-1] if each.value_b - each.value_a > _EQUAL][:n_moved]
