"""`leaderboard` and `show`: all runs together, and one sample whole."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import Task
from qilin_rag.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qilin_rag.reports.cells import Block, Cell
    from qilin_rag.reports.cells import Table as Board
    from qilin_rag.store import Manifest, RunDirectory
    from qilin_rag.types import Sample, Score


_INTERVAL_WIDTH = 9  # `.310–.364`: broken over two lines it can't be read
_GAP = 3  # between two columns
_LABEL_WIDTH = 24  # of rows, at most, where columns have to be broken over several tables


class Format(StrEnum):
    """How the leaderboard is written."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


def leaderboard(
    runs_dir: Annotated[
        list[Path] | None, typer.Option(help="A folder of runs; may be given several times. [default: runs]")
    ] = None,
    common: Annotated[
        bool, typer.Option(help="One table over the questions that all runs have; incomplete runs, too.")
    ] = False,
    controls: Annotated[
        bool, typer.Option(help="Rows that tell what a figure is worth: references shuffled; equal answer length.")
    ] = False,
    paper: Annotated[
        bool, typer.Option(help="The Qilin paper's figures, as far as they are certain, beside Qilin alone.")
    ] = False,
    paper_anyway: Annotated[
        bool, typer.Option("--paper-anyway", help="The same beside any data, labelled as of another data set.")
    ] = False,
    cluster_by: Annotated[
        str | None, typer.Option(help="Field of the questions' meta that makes clusters. [default: the query]")
    ] = None,
    task: Annotated[
        Task | None, typer.Option(help="The rankers of a task instead, as in the paper's Table 10.")
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.table,
    out: Annotated[Path | None, typer.Option(help="Write to this file (table is written as plain text).")] = None,
) -> None:
    """Put all complete runs in one table.

    LLM x retriever, one block a metric (with --task: rankers by figures), with 95% intervals; the best marked, and what
    is not significantly worse. Runs over other questions get tables of their own.
    """
    from qilin_rag.errors import QilinError, UsageError
    from qilin_rag.reports import formats
    from qilin_rag.reports import leaderboard as board
    from qilin_rag.store import write_text

    folders = runs_dir or [Path("runs")]
    if task is None:
        options = board.Options(
            common=common, controls=controls, paper=paper, paper_anyway=paper_anyway, cluster_by=cluster_by
        )
        tables = board.leaderboard(*folders, options=options)
    else:
        from qilin_rag.reports.ranking_board import ranking_board

        of_answers = {"--common": common, "--controls": controls, "--cluster-by": cluster_by}
        if given := next((name for name, value in of_answers.items() if value), None):
            raise UsageError(f"{given} is for answers, not for the rankers of --task {task.value}")
        tables = ranking_board(*folders, task=task.value, with_paper=paper, paper_anyway=paper_anyway)
    match output_format:
        case Format.table:
            text = board_as_text(tables, to_file=out is not None)
        case Format.md:
            text = formats.as_markdown(tables)
        case Format.csv:
            text = as_csv(formats.as_rows(tables))
        case Format.json:
            import json

            text = json.dumps(formats.as_json(tables), ensure_ascii=False, indent=2)
        case Format.latex:
            text = formats.as_latex(tables)
        case Format.html:
            text = formats.as_html(tables)
    if output_format is not Format.table:
        text = printable(text)
    if out is None:
        typer.echo(text.rstrip("\n"))
        return
    try:
        write_text(out, text.rstrip("\n") + "\n")
    except QilinError as error:
        raise UsageError(f"--out {error}") from error


def board_as_text(tables: list[Board], to_file: bool = False) -> str:
    """Tables as a terminal shows them; without colours for a file."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from qilin_rag.reports import formats

    def cell_text(cell: Cell | None, n_marks: int) -> Text:
        style = "bold green" if formats.is_best(cell) else "green" if formats.is_tied(cell) else ""
        marks = f" {formats.marks_of(cell):<{n_marks}}" if n_marks else ""
        text = Text(f"{formats.format_cell(cell)}{marks}", style=style)
        if interval := formats.format_interval(cell):
            text.append(f"\n{interval}", style="dim not bold default")
        return text

    def widths(block: Block) -> list[tuple[int, int]]:
        """The most marks that a figure of each column has, and the column's width."""
        found = []
        for name, *cells in zip(formats.column_names(block), *block.cells, strict=True):
            n_marks = max(len(formats.marks_of(cell)) for cell in cells)
            width = max(cell_len(line) for cell in cells for line in cell_text(cell, n_marks).plain.split("\n"))
            found.append((n_marks, max(width, min(cell_len(name), _INTERVAL_WIDTH))))
        return found

    def parts(block: Block, columns: list[tuple[int, int]], room: int) -> Iterator[slice]:
        """The columns of as many tables as are needed, breaking before another k where there is one."""
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
            if spending := formats.spending_rows(data):
                drawn = new_table()
                for number, name in enumerate(spending[0]):
                    drawn.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
                for texts in spending[1:]:
                    drawn.add_row(*map(Text, texts))
                console.print(drawn)
                console.print()
            for line in formats.marks(data):
                console.print(line)
            for block in data.blocks:
                console.print(f"  {formats.legend(block)}", style="dim")
            for note in data.notes:
                console.print(f"  {note}", style="yellow")
            console.print()
    text = capture.get()
    return Text.from_ansi(text).plain if to_file else text


def as_csv(rows: list[dict[str, object]]) -> str:
    """Flat records under a header."""
    import csv
    import io

    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def show(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    question: Annotated[str | None, typer.Option(help="The id of the question to show whole.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show a run, or one of its samples.

    With --question the sample whole: hits, messages, answer, references, scores.
    """
    from qilin_rag.cost import Tally
    from qilin_rag.errors import unknown_name
    from qilin_rag.store import RunDirectory

    directory = RunDirectory(run_directory)
    manifest = directory.read_manifest()
    samples, lines = directory.read_samples()
    if question is None:
        _show_run(directory, manifest, samples, lines, as_json)
        return
    questions = {asked.id: asked for asked in directory.read_questions()}
    if question not in questions or question not in samples:
        raise unknown_name("question in this run", question, samples)
    asked, sample = questions[question], samples[question]
    scores = [score for score in _scores(directory, manifest) if score.question_id == question]
    if as_json:
        ui.print_json(
            {
                "question": asked.model_dump(mode="json"),
                "sample": sample.model_dump(mode="json"),
                "scores": [score.model_dump(mode="json") for score in scores],
            }
        )
        return
    console = ui.console()
    console.print(f"question {asked.id}: {asked.query}", style="bold")
    console.print(f"{manifest.labels['retriever']} + {manifest.labels['llm']}, prompt {manifest.labels['prompt']}\n")
    console.print(f"hits (* = reference note; {sample.notes_used} of {sample.notes_given} notes used)", style="bold")
    for hit in sample.hits:
        mark = "*" if hit.note_idx in asked.reference_notes else " "
        console.print(f"  {hit.rank:>2} {mark} note {hit.note_idx}  {hit.score:.4f}")
    for message in sample.messages:
        console.print(f"\n{message['role']}", style="bold")
        console.print(message["content"], soft_wrap=True)
    is_cut = Tally(lines).is_cut(sample)
    console.print(f"\nanswer ({_status(sample, is_cut)}{f': {sample.error}' if sample.error else ''})", style="bold")
    console.print(sample.answer, soft_wrap=True)
    for number, reference in enumerate(asked.references, start=1):
        console.print(f"\nreference {number}", style="bold")
        console.print(reference, soft_wrap=True)
    console.print("\nscores", style="bold")
    for score in scores:
        value = "unscored" if score.value is None else f"{score.value:.4f}"
        console.print(f"  {score.metric}  {value}{f': {score.reason}' if score.reason else ''}")


def _scores(directory: RunDirectory, manifest: Manifest) -> list[Score]:
    """The run's scores without those that an earlier version named wrongly."""
    from qilin_rag.scoring import is_misnamed

    return [score for score in directory.read_scores() if not is_misnamed(manifest, score.metric, score.signature)]


def _status(sample: Sample, is_cut: bool) -> str:
    """The status with what is doubtful about the answer."""
    return ", ".join(
        [
            sample.status,
            *(["prompt cut by the server"] if is_cut else []),
            *(mark.replace("_", " ") for mark in sample.marks),
        ]
    )


def _show_run(
    directory: RunDirectory, manifest: Manifest, samples: dict[str, Sample], lines: list[Sample], as_json: bool
) -> None:
    from qilin_rag.cost import Tally, calls_s, cost_of, describe, price_of
    from qilin_rag.scoring import doubts, summarise

    repeats = directory.read_repeats()
    summary = summarise(list(samples.values()), lines, [], repeats=repeats)
    so_far = {"generation_s": calls_s([*lines, *repeats]), "cost": cost_of(summary, price_of(manifest))}
    manifest = manifest.model_copy(update=so_far)
    scores: dict[str, dict[str, float | None]] = {}
    for score in _scores(directory, manifest):
        scores.setdefault(score.question_id, {})[score.metric] = score.value
    if as_json:
        answers = summary.model_dump(mode="json", exclude={"metrics"})
        ui.print_json({"manifest": manifest.model_dump(mode="json"), "answers": answers, "scores": scores})
        return
    from rich.table import Table
    from rich.text import Text

    console = ui.console()
    facts = {"run": directory.path, "state": manifest.state, **manifest.labels, "started": manifest.started}
    for name, fact in facts.items():
        console.print(f"{name:<10} {fact}")
    if summary.repeats:
        console.print(str(summary.repeats))
    for line in doubts(summary):
        console.print(line, style="yellow")
    for line in describe(manifest, summary):
        console.print(line)
    taken = Tally([*lines, *repeats])
    shown = next(iter(scores.values()), {})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("question", no_wrap=True, overflow="ellipsis", max_width=40)
    for column in ("status", *shown, "query / error"):
        table.add_column(column, overflow="fold")
    for question_id, sample in samples.items():
        figures = [
            "-" if (value := scores.get(question_id, {}).get(name)) is None else f"{value:.4f}" for name in shown
        ]
        table.add_row(
            Text(question_id), _status(sample, taken.is_cut(sample)), *figures, Text(sample.error or sample.query)
        )
    console.print(table)
