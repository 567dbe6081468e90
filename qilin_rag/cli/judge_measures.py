"""The measures of `judge` that take an answer apart, and how the figures of any judge are printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from qilin_rag.cli import ui
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.core.types import MetricSummary
    from qilin_rag.judging.config import JudgeConfig, PartSettings
    from qilin_rag.judging.docket import Hearing
    from qilin_rag.judging.run_answers import Judged
    from qilin_rag.pipeline.forecast import Plan

Controls = Mapping[str, Mapping[str, "MetricSummary"]]


class Measure(NamedTuple):
    """A measure of one run: what its figures are, how it is planned, and how it is judged."""

    title: str
    plan: Callable[[], Plan]
    judge: Callable[[], tuple[Judged, Controls]]


def grades_of(path: Path, config: JudgeConfig) -> Measure:
    """Return the measure by grades."""
    from qilin_rag.judging.pointwise import judge_run, plan_judge

    return Measure("grades, 1 to 5", lambda: plan_judge(path, config), lambda: (judge_run(path, config), {}))


def claims_of(path: Path, config: JudgeConfig, settings: PartSettings) -> Measure:
    """Return the measure by claims."""
    from qilin_rag.judging.claims import judge_claims, plan_claims

    given = (path, config, settings)
    return Measure("claims, by RAGChecker's definitions", partial(plan_claims, *given), partial(judge_claims, *given))


def support_of(path: Path, config: JudgeConfig, settings: PartSettings) -> Measure:
    """Return the measure by support."""
    from qilin_rag.judging.support import judge_support, plan_support

    given = (path, config, settings)
    title = "support of sentences by the notes that they cite"
    return Measure(title, partial(plan_support, *given), partial(judge_support, *given))


def refusal_of(path: Path, config: JudgeConfig, settings: PartSettings) -> Measure:
    """Return the measure of refusals."""
    from qilin_rag.judging.refusals import judge_refusals, plan_refusals

    return Measure(
        "1 if the answer refuses the question",
        lambda: plan_refusals(path, config, settings.language),
        lambda: (judge_refusals(path, config, settings.language), {}),
    )


MEASURES: Mapping[str, Callable[[Path, JudgeConfig, PartSettings], Measure]] = {
    "claims": claims_of,
    "support": support_of,
    "refusal": refusal_of,
}


def print_judged(title: str, judged: Judged, controls: Controls, as_json: bool, more: Mapping[str, Any]) -> None:
    """Print the figures of a run and of its controls, and what the judge took; `more` is for JSON only."""
    if as_json:
        of_controls = {control: _as_json(of_control) for control, of_control in controls.items()}
        named = {"run": str(judged.directory.path), "judge": judged.judge}
        ui.print_json(
            {**named, **more, "metrics": _as_json(judged.metrics), "controls": of_controls} | took(judged.hearing)
        )
        return
    ui.console().print(f"{title}, judged by {judged.judge}", style="bold")
    ui.print_metrics(judged.metrics)
    for control, figures in controls.items():
        ui.console().print(f"\ncontrol: {control}", style="bold")
        ui.print_metrics(figures)
    print_took(judged.hearing)
    typer.echo(judged.directory.path)


def took(hearing: Hearing) -> dict[str, object]:
    """Return the counts, tokens and cost of judgements as JSON values."""
    return {
        "judgements": dict(hearing.counts) | {"cached": hearing.spent.cached},
        "usage": hearing.spent.usage.model_dump(mode="json"),
        "cost": hearing.cost.model_dump(mode="json"),
    }


def print_took(hearing: Hearing) -> None:
    """Print the counts, tokens and cost of judgements."""
    from qilin_rag.pipeline.cost import say_tokens
    from qilin_rag.scorers.summary import doubts

    counts = ", ".join(f"{n} {status}" for status, n in hearing.counts.items() if n) or "none"
    ui.console().print(f"{counted(len(hearing.said), 'judgement')}: {counts}")
    for line in doubts(hearing.spent):
        ui.console().print(line, style="yellow")
    ui.console().print(say_tokens(hearing.spent, hearing.cost), style="dim")


def _as_json(figures: Mapping[str, MetricSummary]) -> dict[str, Any]:
    return {name: figure.model_dump(mode="json") for name, figure in figures.items()}
