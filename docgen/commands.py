"""Every command with its options: what `--help` prints, in its groups and order, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from typer.main import get_command

from docgen.html import block, code, inline, paragraphs, table
from qilin_rag.cli import app

PROGRAM = "qilin-rag"


class HelpPage:
    """Takes the place of click's help formatter, and keeps what a command writes as Markdown."""

    width = 100_000  # no text is shortened to fit

    def __init__(self, path: str) -> None:
        """`path` is the command with all that it is below, such as `qilin-rag data stats`."""
        self._path = path
        self._heading = ""
        self.parts: list[str] = []

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Keep the line of usage."""
        self.parts.append(block(f"{prog} {args}"))

    def write_heading(self, heading: str) -> None:
        """Keep the title of a group of options."""
        self._heading = heading

    def write_text(self, text: str) -> None:
        """Keep some paragraphs."""
        self.parts.append(paragraphs(text))

    def write_dl(self, rows: Iterable[Sequence[str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Keep a group of options, or the commands of a group as links."""
        if self._heading == "Commands":
            cells = [
                (f'<a href="#{anchor(f"{self._path} {name}")}">{code(name)}</a>', inline(said)) for name, said in rows
            ]
        else:
            cells = [(code(name), inline(said)) for name, said in rows]
        self.parts.append(table((self._heading.removesuffix("s"), "Meaning"), cells))

    def write_paragraph(self) -> None:
        """Separate two paragraphs: they are separate already."""

    write = write_text

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Begin a group."""
        self.write_heading(name)
        yield

    @contextmanager
    def indentation(self) -> Iterator[None]:
        """Indent nothing."""
        yield

    def indent(self) -> None:
        """Indent nothing."""

    dedent = indent


def anchor(path: str) -> str:
    """Return the id of a command's heading: `qilin-rag data stats` is at `#data-stats`."""
    return "-".join(path.split()[1:]) or PROGRAM


def commands() -> str:
    """Return the section of every command, in the order of the program's help."""
    return "\n\n".join(_sections(get_command(app), PROGRAM, None))


def _sections(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    path = context.command_path
    page = HelpPage(path)
    command.format_help(context, page)
    yield f"## `{path}` {{ #{anchor(path)} }}\n\n" + "\n\n".join(page.parts)
    for below in getattr(command, "commands", {}):
        if not command.commands[below].hidden:
            yield from _sections(command.commands[below], below, context)
