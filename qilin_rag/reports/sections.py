"""Show ablations and sensitivity as plain tables with lines below them, for a terminal, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from qilin_rag.core.text import counted
from qilin_rag.pipeline.sweep import NOISE
from qilin_rag.reports import formats
from qilin_rag.reports.ablation import Ablation, Factor, FactorRanking, Level
from qilin_rag.reports.cells import Cell, ResultTable
from qilin_rag.reports.forest import Forest
from qilin_rag.reports.formats import (
    column_names,
    escape_md,
    escape_tex,
    format_cell,
    format_interval,
    legend,
    marks,
    marks_of,
)
from qilin_rag.reports.sensitivity import Sensitivity


class Section(NamedTuple):
    """A table; a row with only its first cell is a heading of the rows after it.

    A line break in a cell stands between a figure and its interval. `plot` shows the figures for pages and files.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    lines: list[str]
    plot: Forest | None = None


def ablation_sections(reports: Sequence[Ablation]) -> Iterator[Section]:
    """Yield for each factor its differences, then how the order of systems changes."""
    for report in reports:
        queries = counted(report.n_clusters, "distinct query")
        about = f"{report.data}, {counted(report.n_questions, 'question')} ({queries})"
        yield Section(about, [], [], [report.signature, *report.notes])
        for factor in report.factors:
            title = f"{report.metric} by {_named(factor)}, compared with {factor.default}"
            yield _differences(title, factor, report.n_questions)
            yield from (_stability(factor, ranked) for ranked in factor.rankings)


def _named(factor: Factor) -> str:
    return "number of wrong notes (share of all)" if factor.factor == NOISE else factor.factor


def _differences(title: str, factor: Factor, n_questions: int) -> Section:
    header = [factor.factor, "value", "difference", "95% interval", "p", "Holm"]
    rows, lines = [], []
    for system in factor.systems:
        name = f"{system.retriever} + {system.llm}"
        rows.append([name, *[""] * 5])
        rows += [_level_row(level, factor.factor == NOISE) for level in system.levels]
        rows.append([f"  spread over {len(system.levels)}", _figure(system.spread), *[""] * 4])
        lines += [
            f"{name}, {level.level}: {level.n} of {counted(n_questions, 'question')} are scored"
            + ("" if level.n_paired is None else f", {level.n_paired} by {factor.default} as well")
            for level in system.levels
            if level.n < n_questions or (level.n_paired is not None and level.n_paired < n_questions)
        ]
        lines += [
            f"{name}, {level.level}: no interval, {level.no_interval}" for level in system.levels if level.no_interval
        ]
    return Section(title, header, rows, lines)


def _level_row(level: Level, is_noise: bool) -> list[str]:
    interval = f"{level.ci95[0]:+.4f} .. {level.ci95[1]:+.4f}" if level.ci95 else ""
    compared = ["" if p is None else f"{p:.4f}" for p in (level.p, level.p_holm)]
    difference = "" if level.difference is None else f"{level.difference:+.4f}"
    name = level.level if level.noise is None or not is_noise else f"{level.level} ({level.noise:.2f})"
    return [f"  {name}", _figure(level.value), difference, interval, *compared]


def _stability(factor: Factor, ranked: FactorRanking) -> Section:
    rows = [
        [level, _tau(tau), ranked.best[level]]
        for level, tau in {factor.default: 1.0, **ranked.tau_with_default}.items()
    ]
    agreement = f"mean tau over {counted(ranked.n_pairs, 'pair')}: {_tau(ranked.mean_tau)}"
    if ranked.least_alike:
        agreement += f"; lowest: {_tau(ranked.lowest_tau)} ({', '.join(ranked.least_alike)})"
    order = f"order by {factor.default}: {' > '.join(ranked.by_default)}"
    title = f"order of {ranked.of} by {factor.factor}, {counted(ranked.n_questions, 'question')}"
    return Section(title, [factor.factor, f"tau with {factor.default}", "best"], rows, [order, agreement])


def sensitivity_sections(reports: Sequence[Sensitivity]) -> Iterator[Section]:
    """Yield for each metric the runs by its variants, with their ranks."""
    for report in reports:
        title = f"{report.data}, {report.n_scored} of {counted(report.n_questions, 'question')}: {report.metric}"
        rows = []
        for variant in report.variants:
            rows.append([variant.variant, "", ""])
            for run, value in zip(report.runs, variant.means, strict=True):
                rows.append([f"  {run}", f"{value:.4f}", str(1 + sum(other > value for other in variant.means))])
        yield Section(title, ["run", "value", "rank"], rows, [])
        best = report.variants[0].order[0]
        agreement = [
            [variant.variant, _tau(variant.tau), variant.order[0] if variant.changes_best else "the same"]
            for variant in report.variants[1:]
        ]
        lines = [f"the best as it is: {best}", *report.notes, report.signature]
        yield Section(f"{report.metric}: variants against it as it is", ["variant", "tau", "best"], agreement, lines)


def board_sections(tables: Sequence[ResultTable]) -> Iterator[Section]:
    """Yield the blocks of a board, the figures with their marks and intervals."""
    for table in tables:
        for number, block in enumerate(table.blocks):
            rows = [[row, *map(_marked, cells)] for row, cells in zip(block.rows, block.cells, strict=True)]
            title = "" if number else formats.title(table)
            yield Section(title, [block.metric, *column_names(block)], rows, [legend(block)])
        yield Section("", [], [], [*marks(table), *table.notes])


def as_markdown(sections: Iterable[Section]) -> str:
    """Format GitHub tables, with the headings among rows in bold."""
    lines: list[str] = []
    for title, header, rows, below, _ in sections:
        lines += [f"## {escape_md(title)}", ""] if title else []
        if rows:
            lines += ["| " + " | ".join(map(escape_md, header)) + " |", "|---|" + "---:|" * (len(header) - 1)]
            for first, *others in rows:
                name = escape_md(first.strip())
                cells = [f"**{name}**" if not any(others) else name, *map(escape_md, others)]
                lines.append("| " + " | ".join(cells) + " |")
            lines.append("")
        lines += [*(f"- {escape_md(line)}" for line in below), ""]
    return "\n".join(lines)


def as_latex(sections: Iterable[Section]) -> str:
    """Format tables for booktabs, the title as caption, the lines below as comments above, intervals below figures."""
    lines = [r"% needs \usepackage{booktabs}; for Chinese names also \usepackage{xeCJK} and xelatex"]
    for title, header, rows, below, _ in sections:
        lines += ["", *(f"% {' '.join(line.split())}" for line in below)]
        if rows:
            lines += ["", r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"]
            lines += [r"\toprule", " & ".join(map(escape_tex, header)) + r" \\", r"\midrule"]
            for first, *others in rows:
                lines += _latex_row(escape_tex(first.strip()), others)
            lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escape_tex(title)}}}", r"\end{table}"]
    return "\n".join(lines)


def _latex_row(name: str, others: Sequence[str]) -> Iterator[str]:
    if not any(others):
        yield rf"\emph{{{name}}} \\"
        return
    figures, intervals = zip(*(cell.partition("\n")[::2] for cell in others), strict=True)
    yield " & ".join([name, *map(escape_tex, figures)]) + r" \\"
    if any(intervals):
        small = [rf"{{\scriptsize {escape_tex(interval)}}}" if interval else "" for interval in intervals]
        yield " & ".join(["", *small]).strip() + r" \\"


def _marked(cell: Cell | None) -> str:
    return " ".join(filter(None, (format_cell(cell), marks_of(cell), format_interval(cell))))


def _figure(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.4f}"


def _tau(tau: float | None) -> str:
    return "none" if tau is None else f"{tau:.2f}"
