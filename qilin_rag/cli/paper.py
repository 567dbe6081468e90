"""`paper`: do the tables of the Qilin paper that this machine can do, on one page beside the paper's values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, QilinTables, Quiet, listed, qilin_tables
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.errors import QilinError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.reports.replication.work import Replication


def paper(
    out: Annotated[Path, typer.Option(help="Folder to write; the same one resumes.")],
    data: QilinTables = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            help="Parts, separated by commas: table-2, users, table-5, figure-3, table-6 to table-11, "
            "or a part of one, such as table-10-search-bm25. [default: all]",
        ),
    ] = None,
    llm: Annotated[
        str,
        typer.Option(help="The LLM of Table 11 (see: list llms); extractive copies sentences, and is no LLM."),
    ] = "extractive",
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Also train the rankers of Table 10: with a GPU as the paper does, without one a small DCN-V2 alone.",
        ),
    ] = False,
    first: Annotated[
        int | None, typer.Option(min=1, help="Rank only the first N requests by id; the paper's code took 1000.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the parts and what each lacks; do nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Do the tables of the Qilin paper on one page.

    Does Tables 2 and 5 to 11 and Figure 3 as far as the data and this machine allow, and says what is missing and how
    to get it. Writes paper.html, paper.md and paper.json. The same command resumes. Exits with code 1 if a part failed.

    Examples:
        qilin-rag paper --data data/Qilin --out replication --dry-run
        qilin-rag paper --data data/Qilin --out replication --first 1000
        qilin-rag paper --data data/Qilin --out replication --only table-10 --train
    """
    from qilin_rag.reports.replication.page import PaperPage, outcome_data
    from qilin_rag.reports.replication.part import Choices
    from qilin_rag.reports.replication.work import plan_parts, replicate

    ui.set_up_logs(quiet or as_json)
    choices = Choices(data=qilin_tables(data), out=out, llm=llm, first=first, train=train)
    names = None if only is None else listed("only", only)
    if dry_run:
        planned = plan_parts(choices, names)
        if as_json:
            ui.print_json([outcome_data(each) for each in planned.outcomes if each.part.name in planned.chosen])
        else:
            _print(planned)
        return
    try:
        with ui.progress_bars(quiet or as_json):
            done = replicate(choices, names)
            page = PaperPage(done)
            path = page.write()
    except KeyboardInterrupt:
        raise Interrupted(f"the parts that are done are kept in {out}; the same command resumes") from None
    if as_json:
        ui.print_json(page.as_data())
    else:
        if not quiet:
            _print(done)
        typer.echo(path)
    if done.n_failed:
        raise QilinError(
            f"{counted(done.n_failed, 'part')} failed; the page says why, and the same command tries again"
        )


def _print(replication: Replication) -> None:
    """Print the chosen parts with their states, then what is lacking."""
    from rich.text import Text

    from qilin_rag.reports.replication.page import told_missing

    console = ui.console()
    chosen = [each for each in replication.outcomes if each.part.name in replication.chosen]
    styles = {"done": "green", "to do": "", "missing": "yellow", "failed": "bold red"}
    width = max(len(each.part.name) for each in chosen)
    for each in chosen:
        seconds = f"  {each.record.seconds:,.1f} s" if each.record else ""
        line = Text(f"{each.part.name.ljust(width)}  ")
        console.print(line.append(each.state, style=styles[each.state]).append(seconds))
    for told in told_missing(chosen):
        ui.print_hanging(console, told.english, first="- ")
