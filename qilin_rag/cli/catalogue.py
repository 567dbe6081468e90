"""`list`: print what can be named on the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from qilin_rag.cli import ui
from qilin_rag.core.errors import QilinError, UsageError

if TYPE_CHECKING:
    from qilin_rag.config.setting_docs import SettingDoc
    from qilin_rag.core.registry import Registry


class ListKind(StrEnum):
    """Kinds of names."""

    retrievers = "retrievers"
    queries = "queries"
    llms = "llms"
    prompts = "prompts"
    metrics = "metrics"
    rankers = "rankers"
    hooks = "hooks"
    settings = "settings"
    runs = "runs"


def list_names(
    kind: Annotated[
        ListKind,
        typer.Argument(
            metavar="KIND",
            help="retrievers, queries, llms, prompts, metrics, rankers, hooks, runs, or settings (those of a run).",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A component, to list its settings as --set takes them.", show_default=False
        ),
    ] = None,
    runs_dir: Annotated[
        list[Path] | None, typer.Option(help="With runs: a folder of runs; repeatable. [default: runs]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List components, settings or runs.

    With a NAME, lists the settings of that component with their defaults. `list runs` gives states and figures.

    Examples:
        qilin-rag list retrievers
        qilin-rag list retrievers bm25
        qilin-rag list runs --runs-dir runs
    """
    if kind is ListKind.runs and name is None:
        _list_runs(runs_dir or [Path("runs")], as_json)
        return
    if kind is ListKind.runs:
        raise UsageError(f"list runs takes no name, but got {name!r}; to see that run: qilin-rag show {name}")
    if runs_dir:
        raise UsageError(f"--runs-dir is for: list runs, not for list {kind.value}; leave it out")
    if name is not None or kind is ListKind.settings:
        _list_settings(kind, name, as_json)
        return
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
    """Print each run's name alone on a line, so that it can be copied at any width."""
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


def _list_settings(kind: ListKind, name: str | None, as_json: bool) -> None:
    """Print the settings of a run, or of one component."""
    from qilin_rag.config.presets import preset_settings
    from qilin_rag.config.setting_docs import as_setting, setting_docs
    from qilin_rag.config.spec import RunSpec, settable

    prefixes = {
        ListKind.retrievers: "retriever",
        ListKind.queries: "query",
        ListKind.llms: "llm",
        ListKind.metrics: f"metrics.{name}",
        ListKind.rankers: "ranker",
    }
    if kind is ListKind.settings and name is None:
        docs = [
            doc._replace(meaning=flag_help(doc.name) or doc.meaning)
            for doc in setting_docs(RunSpec)
            if doc.name in settable()
        ]
    elif name is not None and kind in prefixes:
        registry = _registry(kind)
        component, given = preset_settings(name) if kind is ListKind.llms else (name, registry.implied(name))
        docs = [
            doc._replace(
                name=f"{prefixes[kind]}.{doc.name}",
                default=as_setting(given[doc.name]) if doc.name in given else doc.default,
            )
            for doc in setting_docs(registry.resolve(component))
        ]
        if any(doc.name == "llm.engine" for doc in docs):
            docs += _engine_settings(given.get("engine"))
    else:
        raise UsageError(f"list {kind.value} {name}: {kind.value} have no settings of their own; leave {name} out")
    if as_json:
        ui.print_json([doc._asdict() for doc in docs])
        return
    from rich.table import Table

    table = Table("--set", "default", "meaning", box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    for doc in docs:
        table.add_row(*doc)
    ui.console().print(table)


def _engine_settings(engine: Any) -> list[SettingDoc]:
    """Return the settings of the engine that a preset names, or those of all engines if it names none."""
    from qilin_rag.config.setting_docs import SettingDoc, as_setting, setting_docs
    from qilin_rag.core.registry import ENGINES

    given = {"name": engine} if isinstance(engine, str) else dict(engine or {})
    names = [given["name"]] if given.get("name") in ENGINES.table() else list(ENGINES.table())
    docs_by_engine = {name: setting_docs(ENGINES.resolve(name)) for name in names}
    owners: dict[SettingDoc, list[str]] = {}
    for name, docs in docs_by_engine.items():
        for doc in docs:
            owners.setdefault(doc, []).append(name)
    return [
        SettingDoc(
            f"llm.engine.{doc.name}",
            as_setting(given[doc.name]) if doc.name in given else doc.default,
            doc.meaning if len(having) == len(names) else f"{', '.join(having)}: {doc.meaning}",
        )
        for doc, having in owners.items()
    ]


def _registry(kind: ListKind) -> Registry[Any]:
    from qilin_rag.core.registry import HOOKS, LLMS, QUERIES, RANKERS, RETRIEVERS, SCORERS

    tables = (RETRIEVERS, QUERIES, LLMS, SCORERS, RANKERS, HOOKS)
    return next(table for table in tables if table.plural == kind.value)


def flag_help(setting: str) -> str:
    """Return the help of the option of `run` for this setting; empty if there is none."""
    from qilin_rag.cli.evaluate import run

    hint = get_type_hints(run, include_extras=True).get(setting)
    helps = [each.help for each in get_args(hint)[1:] if getattr(each, "help", None)]
    return str(helps[0]).partition(" [default")[0] if helps else ""


def _describe(kind: ListKind) -> dict[str, str]:
    from qilin_rag.config.resources import read_yaml, resource_names

    if kind is ListKind.prompts:
        return {name: _prompt_line(path) for name, path in resource_names("prompts").items()}
    registry = _registry(kind)
    names = {name: _class_line(registry, name) for name in registry.table()}
    if kind is ListKind.llms:
        for name, path in resource_names("configs/llms").items():
            preset = read_yaml(path)
            names[name] = f"preset: {preset.get('model')} at {preset.get('base_url', 'a server of your own')}"
    return names


def _prompt_line(path: Path) -> str:
    from qilin_rag.prompts.answer import load_prompt

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
