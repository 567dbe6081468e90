"""The analysis of re-searches as files: tables, effects as JSON and CSV, plots, and one page in plain words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from qilin_rag.analysis.effect_page import (
    FEWER_CLICKS,
    LOVE_PLOT,
    METHODS,
    NOT_ADJUSTED,
    NOT_RANDOM,
    SAMPLED,
    as_csv,
    draw_balance,
    sections,
)
from qilin_rag.analysis.figures import escaped
from qilin_rag.analysis.page import table_sections, write_figures
from qilin_rag.analysis.re_search import ReSearchReport
from qilin_rag.core.files import write_text

PAGE = "re_search.md"
CAVEATS = (
    NOT_RANDOM,
    SAMPLED,
    "A search for the same need may mean that the answer failed, or that it woke interest. A search without a click "
    "and without another one may mean that the answer was enough, or that the user gave up. The log can't tell.",
    "A re-search is inferred from time and characters. One in words that share nothing is missed, and so is one that "
    "the data does not hold. Lower or raise the limits to see what depends on them.",
    "Seconds a click are known for searches with a click only, and an answer changes which these are: their "
    "difference mixes two effects.",
    "Searches without results are left out of the effects.",
    NOT_ADJUSTED,
    FEWER_CLICKS,
)
"""Warnings about the interpretation of the figures, for the page and the terminal."""


def write_report(report: ReSearchReport, out: Path, label: str, with_plots: bool) -> None:
    """Write `re_search.{json,csv,md}`, the tables, and the plots to an existing folder."""
    drawn: list[str] = []
    if with_plots:
        from qilin_rag.analysis.plots import draw_tables

        drawn = draw_tables(report.tables, out)
        for i, effect in enumerate(report.effects):
            draw_balance(effect, out / f"{LOVE_PLOT}_{i}")
    write_figures(report.tables, out)
    write_text(out / "re_search.json", json.dumps(as_content(report), ensure_ascii=False, indent=2) + "\n")
    write_text(out / "re_search.csv", as_csv(report.effects))
    write_text(out / PAGE, as_page(report, label, drawn, with_plots))


def as_content(report: ReSearchReport) -> dict[str, object]:
    """Return the limits and the effects, or why there are none, for JSON."""
    return {
        "limits": report.limits._asdict(),
        "populations": [effect.model_dump() for effect in report.effects],
        "refused": report.refused,
    }


def as_page(report: ReSearchReport, label: str, plots: Sequence[str], with_plots: bool) -> str:
    """Return the page: what followed searches, what of it an answer changes, and what this does not show."""
    lines = [
        f"# Do users search again, and read on? ({escaped(label)})",
        "",
        "What followed searches that were shown a direct answer, and searches that were not. The two kinds differ in "
        "more than the answer: what an answer changes is below.",
        *table_sections(report.tables, plots),
        "",
        "## What an answer changes",
        "",
    ]
    if report.refused:
        lines.append(f"No effect is given. {escaped(report.refused)}.")
    else:
        lines += [*METHODS, *sections(report.effects, with_plots)]
    lines += ["", "## What this does not show", "", *(f"- {line}" for line in CAVEATS)]
    return "\n".join(lines) + "\n"
