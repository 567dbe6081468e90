"""The command line. Each command group is one thin file; what a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys

import typer
from typer.main import get_command

from qilin_rag.cli import (
    ablate,
    analyze,
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
)
from qilin_rag.cli.numbers import read_strictly
from qilin_rag.core.errors import QilinError
from qilin_rag.core.text import printable

app = typer.Typer(
    name="qilin-rag",
    help="Evaluate retrieval-augmented answers to Qilin's DQA queries: retrieve, prompt, generate, score, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(evaluate.run)
app.command()(evaluate.score)
app.command()(import_answers.import_answers)
app.command()(reproduce.reproduce)
app.command()(judge.judge)
app.command()(sweep.sweep)
app.command()(ablate.ablate)
app.command()(serve.serve)
app.command()(retrieve.retrieve)
app.command()(index.index)
app.command()(results.leaderboard)
app.command()(compare.compare)
app.command()(ablate.sensitivity)
app.command()(show.show)
app.command()(export.export)
app.command()(report.report)
app.command()(rank.train)
app.command()(rank.rank)
app.add_typer(data.app)
app.add_typer(analyze.app)
app.command()(synth.synth)
app.add_typer(cache.app)
app.command()(doctor.doctor)
app.command(name="list")(catalogue.list_names)


@app.callback(invoke_without_command=True)
def _top(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from qilin_rag import __version__

        typer.echo(f"qilin-rag {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; what we stop for on purpose is one line on standard error and its own exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        getattr(sys, name).reconfigure(encoding="utf-8", errors="replace")
    signals.install()
    try:
        read_strictly(get_command(app))()
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
        os._exit(1)  # standard output may be what can't be written: it must not be flushed again
