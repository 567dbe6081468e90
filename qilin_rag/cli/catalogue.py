"""`list`: what can be named on the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.errors import QilinError, UsageError

if TYPE_CHECKING:
    from qilin_rag.registry import Registry


class Kind(StrEnum):
    """What there is to list."""

    retrievers = "retrievers"
    llms = "llms"
    prompts = "prompts"
    metrics = "metrics"
    rankers = "rankers"
    runs = "runs"


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    runs_dir: Annotated[
        list[Path] | None, typer.Option(help="Of runs: a folder of them; may be given several times. [default: runs]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List what can be named, with what it is; of runs their state and figures."""
    if kind is Kind.runs:
        _list_runs(runs_dir or [Path("runs")], as_json)
        return
    if runs_dir:
        raise UsageError(f"--runs-dir is for: list runs, not for list {kind.value}")
    names = _describe(kind)
    if as_json:
        ui.print_json(names)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, description in names.items():
        table.add_row(name, description)
    ui.console().print(table)


def _list_runs(folders: list[Path], as_json: bool) -> None:
    """Two lines a run, so that its name can be copied at any width."""
    from qilin_rag.reports.finding import folders_below
    from qilin_rag.reports.run_list import list_runs

    runs = list_runs(folders)
    if as_json:
        ui.print_json([run.model_dump(mode="json") for run in runs])
        return
    if not runs:
        raise UsageError(f"{', '.join(map(str, folders))} holds no run; begin with: qilin-rag run")
    console = ui.console()
    for run in runs:
        console.print(str(run.run), style="bold", soft_wrap=True)
        figures = [f"{name} {'unscored' if value is None else f'{value:.4f}'}" for name, value in run.figures.items()]
        began = [run.started[:16].replace("T", " ")] if run.started else []
        is_fine = run.state == "complete" and not set(run.statuses) - {"ok"}
        console.print(f"  {'  '.join([str(run), *began])}", style="" if is_fine else "yellow")
        if figures:
            console.print(f"  {'  '.join(figures)}", style="dim")
    shown = {run.run.parent for run in runs}
    below = [(path, n) for folder in folders for path, n in folders_below(folder).items() if path not in shown]
    for path, n in below:
        console.print(f"{n} more in {path}: qilin-rag list runs --runs-dir {path}", soft_wrap=True, style="dim")


def _describe(kind: Kind) -> dict[str, str]:
    from qilin_rag.config import read_yaml, resource_names
    from qilin_rag.registry import LLMS, RANKERS, RETRIEVERS, SCORERS

    if kind is Kind.prompts:
        return {name: _prompt_line(path) for name, path in resource_names("prompts").items()}
    registry = {Kind.retrievers: RETRIEVERS, Kind.llms: LLMS, Kind.metrics: SCORERS, Kind.rankers: RANKERS}[kind]
    names = {name: _class_line(registry, name) for name in registry.table()}
    if kind is Kind.llms:
        for name, path in resource_names("configs/llms").items():
            preset = read_yaml(path)
            names[name] = f"preset: {preset.get('model')} at {preset.get('base_url', 'a server of your own')}"
    return names


def _prompt_line(path: Path) -> str:
    from qilin_rag.prompts import load_prompt

    try:
        return load_prompt(str(path)).description
    except QilinError as error:
        return f"can't be used: {error}"


def _class_line(registry: Registry[Any], name: str) -> str:
    try:
        component = registry.resolve(name)
    except QilinError as error:
        return f"can't be used: {error}"
    return (component.__doc__ or "").strip().split("\n")[0]
