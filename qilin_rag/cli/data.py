"""`data`: validate, describe, convert and filter data sets, and read their images."""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import filter, ui
from qilin_rag.cli.help import App
from qilin_rag.cli.options import AsJson, DataArgument, Quiet, SetLog, log_settings
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.text import counted, printable

app = App("data", help="Check, convert and filter data sets, and read images.", no_args_is_help=True)
app.command("filter")(filter.filter_notes)


class Encoding(StrEnum):
    """Formats that tables can be written in."""

    parquet = "parquet"
    arrow = "arrow"
    jsonl = "jsonl"


@app.command()
def validate(
    data: DataArgument,
    show: Annotated[int, typer.Option(min=0, help="Defects to print for each column of each file.")] = 5,
    settings: SetLog = None,
    as_json: AsJson = False,
) -> None:
    """Report every defect with its table, row and column.

    Exits with code 1 if there is a defect. --json prints all of them.

    Examples:
        qilin-rag data validate sample
        qilin-rag data validate mine --show 20
    """
    from qilin_rag.data.schema import ALL_TABLES
    from qilin_rag.data.source import open_source
    from qilin_rag.data.text_files import Defect
    from qilin_rag.data.validate import validate as validate_source

    defects: list[Defect] = []
    remarks: list[str] = []
    source = open_source(data, list(ALL_TABLES), log=log_settings(settings))
    n_rows = validate_source(source, defects.append, remarks.append)
    if as_json:
        records = [defect._replace(path=str(defect.path))._asdict() for defect in defects]  # type: ignore[arg-type]
        ui.print_json({"rows": n_rows, "n_defects": len(defects), "defects": records, "remarks": remarks})
    else:
        groups: dict[tuple[Path, str], list[Defect]] = defaultdict(list)
        for defect in defects:
            groups[defect.path, defect.column].append(defect)
        for (path, column), in_column in groups.items():
            for defect in in_column[:show]:
                typer.echo(printable(str(defect)))
            if len(in_column) > show:
                typer.echo(f"{path}: {len(in_column) - show} more of {column or 'these'}")
        for remark in remarks:
            ui.console().print(remark)
        rows = ", ".join(f"{name} {n:,}" for name, n in n_rows.items())
        ui.console().print(f"{counted(len(defects), 'defect')} in {counted(sum(n_rows.values()), 'row')} ({rows})")
    if defects:
        raise typer.Exit(1)


@app.command()
def stats(data: DataArgument, settings: SetLog = None, as_json: AsJson = False) -> None:
    """Print the size and contents of a data set.

    Counts rows, lengths, answers by feedback, positions and sessions of requests, and tells which clock the times of
    searches seem to follow.

    Examples:
        qilin-rag data stats sample
        qilin-rag data stats hub:THUIR/Qilin --json
    """
    from qilin_rag.data.describe import describe
    from qilin_rag.data.schema import ALL_TABLES
    from qilin_rag.data.source import open_source

    ui.set_up_logs(as_json)
    figures = describe(open_source(data, list(ALL_TABLES), log=log_settings(settings)))
    if as_json:
        ui.print_json(figures)
        return
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold")
    drawn.add_column()
    drawn.add_column(justify="right")
    for subject, values in figures.items():
        for i, (name, value) in enumerate(values.items()):
            shown = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
            drawn.add_row(subject if i == 0 else "", name, shown)
    ui.console().print(drawn)


@app.command()
def convert(
    data: DataArgument,
    to: Annotated[Encoding, typer.Option(help="Format to write the tables in.")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    quiet: Quiet = False,
) -> None:
    """Write the same tables in another format.

    Writes parquet as on the hub: one folder of shards for each table.

    Examples:
        qilin-rag data convert sample --to jsonl --out sample-jsonl
        qilin-rag data convert hub:THUIR/Qilin --to arrow --out data/Qilin
    """
    from qilin_rag.data.convert import convert as convert_source
    from qilin_rag.data.schema import ALL_TABLES
    from qilin_rag.data.source import open_source

    ui.set_up_logs(quiet)
    written = convert_source(open_source(data, list(ALL_TABLES)), to, out)
    if not quiet:
        ui.console().print(", ".join(f"{name} {n:,}" for name, n in written.items()))
    typer.echo(out)


@app.command()
def ocr(
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of its own for the texts, to use as --data. [default: the folder of the data]"),
    ] = None,
    images_per_note: Annotated[
        int | None, typer.Option(min=1, help="Read only the first N images of each note. [default: all]")
    ] = None,
    retrieved: Annotated[
        Path | None, typer.Option(help="TREC run (retrieve --out); read only the notes that it names.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that read images.")] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Read what the images of notes say.

    Writes image_text.jsonl beside the tables; `--note-fields title,content,image_text` then reads it with the notes.
    Needs no network and no GPU: pip install 'qilin-rag[ocr]'. The same command resumes after a stop.

    Examples:
        qilin-rag data ocr mine --jobs 8
        qilin-rag data ocr sample-images --out cards
        qilin-rag data ocr mine --retrieved bm25.trec
    """
    from qilin_rag.data.image_text import read_images

    ui.set_up_logs(quiet or as_json)
    try:
        with ui.progress_bars(quiet or as_json):
            done = read_images(data, out, jobs, images_per_note, retrieved)
    except KeyboardInterrupt:
        raise Interrupted("every finished note is kept; the same command resumes") from None
    if as_json:
        ui.print_json({**done._asdict(), "folder": str(done.folder)})
        return
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in done.left_out.items())
    counts = f"{counted(done.notes, 'note')} with images: {counted(done.images, 'image')} read"
    left_out = f", {sum(done.left_out.values()):,} left out ({reasons})" if reasons else ""
    ui.console().print(f"{counts}{left_out}; {counted(done.characters, 'character')} of text")
    typer.echo(done.folder)
