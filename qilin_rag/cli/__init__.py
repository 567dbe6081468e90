"""The command line. Each command group is one thin file; what a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import typer
from typer.main import get_command

from qilin_rag.cli import (
    ablate,
    agreement,
    analyze,
    batch,
    cache,
    catalogue,
    compare,
    data,
    doctor,
    evaluate,
    export,
    import_answers,
    index,
    judge,
    nuggets,
    paper,
    rank,
    report,
    reproduce,
    results,
    retrieve,
    serve,
    show,
    signals,
    sweep,
    synth,
    track,
    view,
)
from qilin_rag.cli.former_options import renamed
from qilin_rag.cli.help import App
from qilin_rag.cli.numbers import read_strictly
from qilin_rag.core.errors import QilinError
from qilin_rag.core.text import printable

_COMMANDS: dict[str, list[App | Callable[..., None]]] = {
    "answer, score and judge": [
        evaluate.run,
        sweep.sweep,
        ablate.ablate,
        evaluate.score,
        judge.judge,
        nuggets.app,
        agreement.app,
        import_answers.import_answers,
        reproduce.reproduce,
        batch.app,
    ],
    "read and share results": [
        results.leaderboard,
        show.show,
        compare.compare,
        report.report,
        view.view,
        ablate.sensitivity,
        export.export,
        track.track,
    ],
    "retrieve, rank and serve": [retrieve.retrieve, index.index, rank.train, rank.rank, serve.serve],
    "look at data": [data.app, analyze.app, paper.paper, synth.synth],
    "look at what is installed and kept": [doctor.doctor, catalogue.list_names, cache.app],
}


def _top(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Evaluate retrieval-augmented answers to the queries of Qilin.

    Begin with `qilin-rag run --limit 3`: it needs no model and no download.

    For options and examples: `qilin-rag COMMAND --help`.
    """
    if version:
        from qilin_rag import __version__

        typer.echo(f"qilin-rag {__version__}")
        raise typer.Exit


def _build(only: str | None = None) -> App:
    """Return the command line with all commands, or with one of them, which takes half the time; all if it has none."""
    commands = [(heading, _name_of(command), command) for heading, group in _COMMANDS.items() for command in group]
    built = App("qilin-rag", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    built.callback(invoke_without_command=True)(_top)
    for heading, name, command in [each for each in commands if each[1] == only] or commands:
        if isinstance(command, App):
            built.add_typer(command, rich_help_panel=heading)
        else:
            built.command(name, rich_help_panel=heading)(command)
    return built


def _name_of(command: App | Callable[..., None]) -> str:
    if isinstance(command, App):
        return str(command.info.name)
    name = "list" if command is catalogue.list_names else command.__name__  # a function `list` would hide the type
    return name.replace("_", "-")


app = _build()


def main() -> None:
    """Run the command line.

    Prints an expected error as one line on standard error, and exits with its code.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        getattr(sys, name).reconfigure(encoding="utf-8", errors="replace")
    signals.install()
    try:
        read_strictly(get_command(_build(only=next(iter(sys.argv[1:]), None))))(renamed(sys.argv[1:]))
    except SystemExit as end:
        if not signals.is_interrupt(end):
            raise
        typer.echo(signals.describe(end), err=True)
        sys.exit(signals.exit_code())
    except QilinError as error:
        typer.secho("error: ", err=True, fg="red", bold=True, nl=False)
        typer.echo(printable(" ".join(str(error).split())), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'output'}: {error.strerror or error}", err=True)
        _end_unflushed()


def _end_unflushed() -> NoReturn:
    """End with code 1; standard output may be what can't be written, so it must not be flushed again."""
    os._exit(1)
