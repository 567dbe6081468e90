"""`leaderboard`: compare all runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import TaskOption, listed
from qilin_rag.cli.table_formats import FormatOption, OutOption, TableFormat, put_out
from qilin_rag.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qilin_rag.reports.cells import Block, Cell
    from qilin_rag.reports.cells import ResultTable as Board

_INTERVAL_WIDTH = 9  # `.310–.364` must not be broken over two lines
_GAP = 3  # between two columns
_LABEL_WIDTH = 24  # of rows, at most, if columns are split into several tables


def leaderboard(
    runs_dir: Annotated[list[Path] | None, typer.Option(help="A folder of runs; repeatable. [default: runs]")] = None,
    common: Annotated[
        bool,
        typer.Option(
            help="Make one table over the questions that all runs share, incomplete runs included.", show_default=False
        ),
    ] = False,
    controls: Annotated[
        bool,
        typer.Option(
            help="Add control rows: answers against shuffled references, answers cut to equal length.",
            show_default=False,
        ),
    ] = False,
    paper: Annotated[
        bool,
        typer.Option(
            help="Add the figures of the Qilin paper that are certain, if the data is Qilin.", show_default=False
        ),
    ] = False,
    paper_anyway: Annotated[
        bool,
        typer.Option(
            "--paper-anyway", help="Add the paper's figures beside any data, labelled as of another data set."
        ),
    ] = False,
    cluster_by: Annotated[
        str | None, typer.Option(help="Field of the questions' meta that defines clusters. [default: the query]")
    ] = None,
    runs: Annotated[
        list[str] | None, typer.Option(help="Only these runs: a name, its beginning, or a pattern with *; repeatable.")
    ] = None,
    llms: Annotated[
        str | None, typer.Option(help="Only these LLMs, separated by commas; names or patterns with *.")
    ] = None,
    retrievers: Annotated[str | None, typer.Option(help="Only these retrievers, given as --llms.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Only these prompts, given as --llms.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Only these metrics, separated by commas; recall means recall@ of every k. With --task, * shows all."
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Sort rows by this metric, the best first.")
    ] = None,
    task: Annotated[
        TaskOption | None, typer.Option(help="Compare the rankers of a task instead, as in the paper's Table 10.")
    ] = None,
    output_format: FormatOption = TableFormat.table,
    out: OutOption = None,
) -> None:
    """Compare all complete runs in one table.

    Gives a row for each LLM and a column for each retriever (with --task: rankers and figures), with 95% intervals.
    Marks the best, and what is not significantly worse. Runs over other questions get tables of their own.

    Examples:
        qilin-rag leaderboard
        qilin-rag leaderboard --llms 'qwen*' --retrievers none,bm25 --sort rouge_l
        qilin-rag leaderboard --format latex --out table.tex
    """
    from qilin_rag.core.errors import UsageError
    from qilin_rag.reports import formats
    from qilin_rag.reports import leaderboard as board
    from qilin_rag.reports.narrowing import Narrowing, sort_rows

    ui.set_up_logs(quiet=False)
    folders = runs_dir or [Path("runs")]
    axes = {"llms": llms, "retrievers": retrievers, "prompts": prompts, "metrics": metrics}
    given_axes = {axis: listed(axis, given) for axis, given in axes.items() if given is not None}
    narrowing = Narrowing(runs=runs or [], **given_axes)
    if task is None:
        options = board.Options(
            common=common,
            controls=controls,
            paper=paper,
            paper_anyway=paper_anyway,
            cluster_by=cluster_by,
            narrowing=narrowing,
            sort=sort,
        )
        tables = board.leaderboard(*folders, options=options)
    else:
        from qilin_rag.reports.ranking_board import ranking_board

        shown = given_axes.pop("metrics", [])
        of_answers = {"--common": common, "--controls": controls, "--cluster-by": cluster_by, "--runs": runs}
        of_answers |= {f"--{axis}": True for axis in given_axes}
        if given := next((name for name, value in of_answers.items() if value), None):
            raise UsageError(f"{given} is for answers, not for the rankers of --task {task.value}; leave it out")
        tables = ranking_board(*folders, task=task.value, with_paper=paper, paper_anyway=paper_anyway, metrics=shown)
        tables = sort_rows(tables, sort) if sort else tables
    match output_format:
        case TableFormat.table:
            text = board_as_text(tables, to_file=out is not None)
        case TableFormat.md:
            text = formats.as_markdown(tables)
        case TableFormat.csv:
            text = as_csv(formats.as_rows(tables))
        case TableFormat.json:
            import json

            text = json.dumps(formats.as_json(tables), ensure_ascii=False, indent=2)
        case TableFormat.latex:
            text = formats.as_latex(tables)
        case TableFormat.html:
            text = formats.as_html(tables)
    put_out(text if output_format is TableFormat.table else printable(text), out)


def board_as_text(tables: list[Board], to_file: bool = False) -> str:
    """Draw tables as a terminal shows them; without colours for a file."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from qilin_rag.reports import formats
    from qilin_rag.reports.side_tables import n_name_columns, side_tables

    def cell_text(cell: Cell | None, n_marks: int) -> Text:
        style = "bold green" if formats.is_best(cell) else "green" if formats.is_tied(cell) else ""
        marks = f" {formats.marks_of(cell):<{n_marks}}" if n_marks else ""
        text = Text(f"{formats.format_cell(cell)}{marks}", style=style)
        if interval := formats.format_interval(cell):
            text.append(f"\n{interval}", style="dim not bold default")
        return text

    def widths(block: Block) -> list[tuple[int, int]]:
        """Return for each column the most marks that a figure has, and the width."""
        column_widths = []
        for name, *cells in zip(formats.column_names(block), *block.cells, strict=True):
            n_marks = max(len(formats.marks_of(cell)) for cell in cells)
            width = max(cell_len(line) for cell in cells for line in cell_text(cell, n_marks).plain.split("\n"))
            column_widths.append((n_marks, max(width, min(cell_len(name), _INTERVAL_WIDTH))))
        return column_widths

    def parts(block: Block, columns: list[tuple[int, int]], room: int) -> Iterator[slice]:
        """Split the columns into as many tables as needed, between two values of k if possible."""
        start = 0
        while start < len(columns):
            used, end = 0, start
            while end < len(columns) and (end == start or used + columns[end][1] + _GAP <= room):
                used += columns[end][1] + _GAP
                end += 1
            ks = [name.partition("@")[2] for name in block.columns]
            whole = next((at for at in range(end, start, -1) if at == len(ks) or ks[at] != ks[at - 1]), end)
            end = whole if block.signatures else end
            yield slice(start, end)
            start = end

    def new_table() -> Table:
        return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")

    console = ui.console()
    with console.capture() as capture:
        for data in tables:
            console.print(formats.title(data), style="bold")
            for block in data.blocks:
                columns = widths(block)
                labels = max(map(cell_len, [block.metric, *block.rows]))
                is_whole = labels + sum(width + _GAP for _, width in columns) <= console.width
                room = console.width - (labels if is_whole else min(labels, _LABEL_WIDTH))
                for part in parts(block, columns, room):
                    drawn = new_table()
                    drawn.add_column(Text(block.metric), overflow="fold")
                    for column, (_, width) in zip(formats.column_names(block)[part], columns[part], strict=True):
                        drawn.add_column(Text(column), justify="right", overflow="fold", min_width=width)
                    for row, kind, cells in zip(block.rows, block.kinds, block.cells, strict=True):
                        if any(cells[part]) or len(block.columns[part]) == len(block.columns):
                            shown = [
                                cell_text(cell, n) for cell, (n, _) in zip(cells[part], columns[part], strict=True)
                            ]
                            drawn.add_row(Text(row, style="" if kind == "run" else "italic"), *shown)
                    console.print(drawn)
                    console.print()
            for header, *rows in side_tables(data):
                drawn = new_table()
                for number, name in enumerate(header):
                    is_name = number < n_name_columns(header)
                    drawn.add_column(name, justify="left" if is_name else "right", overflow="fold")
                for texts in rows:
                    drawn.add_row(*map(Text, texts))
                console.print(drawn)
                console.print()
            for line in formats.marks(data):
                console.print(line)
            for block in data.blocks:
                ui.print_hanging(console, formats.legend(block), "dim", first="  ", indent=4)
            for note in data.notes:
                ui.print_hanging(console, note, "yellow", first="  ", indent=4)
            console.print()
    text = capture.get()
    return Text.from_ansi(text).plain if to_file else text


def as_csv(rows: list[dict[str, object]]) -> str:
    """Write flat records as CSV with a header."""
    from qilin_rag.core.spreadsheet import csv_of_records

    return csv_of_records(rows)
