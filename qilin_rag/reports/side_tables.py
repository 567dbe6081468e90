"""Make the tables below the figures as rows of texts: tokens and cost, seconds for each call, and judges' ratings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qilin_rag.core.ratings import JudgedComparison
from qilin_rag.core.text import counted
from qilin_rag.core.types import Cost
from qilin_rag.core.units import format_amount
from qilin_rag.reports.cells import ResultTable, Spending
from qilin_rag.reports.judged import win_share


def has_cached(table: ResultTable) -> bool:
    """Return whether any answers came from the cache."""
    return any(each.first_asked for each in table.spending)


def spending_rows(table: ResultTable) -> list[list[str]]:
    """Return tokens and cost of the runs that used any, under a header; empty if none did.

    In brackets is what cached answers used when they were first asked.
    """
    rows = [
        [each.llm, each.retriever, *_spent(each)]
        for each in table.spending
        if each.completion_tokens or each.uncounted or each.first_asked
    ]
    return [["tokens", "", "prompt", "completion", "cost"], *rows] if rows else []


def _spent(spending: Spending) -> list[str]:
    first = spending.first_asked
    counts = [spending.prompt_tokens, spending.completion_tokens]
    own = ["unknown" if n is None else f"{n:,}" for n in counts] + [_amount(spending.cost)]
    if first is None:
        return own
    at_first = ["unknown" if n is None else f"{n:,}" for n in (first.prompt_tokens, first.completion_tokens)]
    at_first.append(_amount(first.cost).strip())
    is_all_cached = counts == [None, None] and not spending.uncounted
    return [
        f"({cached})" if is_all_cached else f"{text} ({cached})" for text, cached in zip(own, at_first, strict=True)
    ]


def latency_rows(table: ResultTable) -> list[list[str]]:
    """Return the seconds for each call of the runs that made any, under a header; empty if none did."""
    rows = [
        [each.llm, each.retriever, f"{of.median_s:.2f}", f"{of.p95_s:.2f}", f"{of.n:,}"]
        for each in table.spending
        if (of := each.latency)
    ]
    return [["seconds a call", "", "median", "95th pct", "calls"], *rows] if rows else []


def judged_rows(comparison: JudgedComparison) -> list[list[str]]:
    """Return the ratings of runs by a judge that compared their answers, best first, under a header."""
    rows = []
    for rated in sorted(comparison.runs, key=lambda rated: -rated.rating.value if rated.rating else math.inf):
        ci95 = rated.rating.ci95 if rated.rating else None
        share = win_share(comparison.pairs, rated.run)
        rows.append(
            [
                rated.run,
                f"{rated.rating.value:.0f}" if rated.rating else "-",
                f"{ci95[0]:.0f} .. {ci95[1]:.0f}" if ci95 else "-",
                "-" if share is None else f"{share:.1%}",
            ]
        )
    return [["pairwise", "rating", "95% interval", "win share"], *rows]


def judged_by(comparison: JudgedComparison) -> str:
    """Describe who compared the answers of runs, over what, and how."""
    flipped = sum(pair.flipped for pair in comparison.pairs)
    turned = f"; {counted(flipped, 'verdict')} flipped with the order" if flipped else ""
    how = "in both orders; a tie or a flip is half a win"
    return f"pairwise: by {comparison.judge}, {comparison.n_questions} questions, {how}{turned}"


def n_name_columns(header: Sequence[str]) -> int:
    """Return how many of the first columns hold names, to be aligned left."""
    return 1 + (header[1] == "")


def side_tables(table: ResultTable) -> list[list[list[str]]]:
    """Return the tables below the blocks, as rows of texts under a header: one or two columns of names, then figures.

    These are tokens and cost, seconds for each call, and ratings of judges, as far as they exist.
    """
    return [rows for rows in (spending_rows(table), latency_rows(table), *map(judged_rows, table.judged)) if rows]


def _amount(cost: Cost) -> str:
    if cost.amount is None:
        return "unknown"
    return f"{'at most ' if cost.at_most else ''}{format_amount(cost.amount)} {cost.currency or ''}"
