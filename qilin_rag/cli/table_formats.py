"""Options of commands that make a table: its format, and the file that it is written to."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.core.errors import QilinError, UsageError


class TableFormat(StrEnum):
    """Formats of a table."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


FormatOption = Annotated[TableFormat, typer.Option("--format", help="Format of the table.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="File to write instead of the terminal.")]


def put_out(text: str, out: Path | None) -> None:
    """Print a table, or write it to a file."""
    from qilin_rag.core.files import write_text

    text = text.rstrip("\n")
    if out is None:
        typer.echo(text)
        return
    try:
        write_text(out, text + "\n")
    except QilinError as error:
        raise UsageError(f"--out {error}") from error
