"""Print figures on standard output, progress and logs on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer

from qilin_rag.core.progress import Advance, watched_by
from qilin_rag.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from qilin_rag.core.types import MetricSummary
    from qilin_rag.reports.sections import Section

PIPE_WIDTH_CHARS = 160
TEXT_WIDTH_CHARS = 120  # at most: longer lines are hard to read
WIDTH_CHARS = 80  # of tables that must fit every terminal


def console() -> Console:
    """Return a console on standard output; without a terminal, as wide as COLUMNS says or as tables need.

    A text on it is wrapped at `TEXT_WIDTH_CHARS` at the latest, unless `soft_wrap` leaves its lines as they are.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Harmless(Console):
        """A console whose text can't steer the terminal."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

        def print(self, *objects: Any, width: int | None = None, **options: Any) -> None:
            if width is None and all(isinstance(each, str | Text) for each in objects):
                width = min(self.width, TEXT_WIDTH_CHARS)
            super().print(*objects, width=width, **options)

    has_width = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    width = None if has_width else PIPE_WIDTH_CHARS
    return Harmless(width=width, highlight=False, emoji=False, markup=False)


def print_hanging(to: Console, text: str, style: str = "", first: str = "", indent: int | None = None) -> None:
    """Print `first` and a text of any script; further lines are indented by `indent`, or as wide as `first`."""
    from rich.cells import cell_len
    from rich.text import Text

    start = cell_len(first) if indent is None else indent
    for number, line in enumerate(Text(text).wrap(to, max(10, min(to.width, TEXT_WIDTH_CHARS) - start))):
        to.print(f"{' ' * start if number else first}{line.plain.rstrip()}", style=style)


def print_sections(sections: Iterable[Section]) -> None:
    """Print tables with lines below them, in 80 columns; a row with only its first cell is a heading."""
    _print_sections(sections, console())


def sections_as_text(sections: Iterable[Section]) -> str:
    """Return tables as `print_sections` prints them, without colours."""
    from rich.text import Text

    to = console()
    with to.capture() as capture:
        _print_sections(sections, to)
    return Text.from_ansi(capture.get()).plain


def _print_sections(sections: Iterable[Section], to: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for title, header, rows, lines, _ in sections:
        to.print(Text(title), style="bold", width=WIDTH_CHARS)
        if rows:
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
            for number, name in enumerate(header):
                table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
            for first, *others in rows:
                table.add_row(Text(first, style="" if any(others) else "bold"), *map(Text, others))
            to.print(table, width=WIDTH_CHARS)
        for line in lines:
            to.print(Text(line), style="dim", width=WIDTH_CHARS)
        to.print()


def as_json(value: Any) -> str:
    """Return a value as one JSON document."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def print_json(value: Any) -> None:
    """Print a value as one JSON document."""
    typer.echo(as_json(value))


def print_metrics(metrics: Mapping[str, MetricSummary], beside: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """Print a table of metrics: value, interval, number scored; below it the remarks on them.

    `beside` holds more columns by heading, each a cell text by metric.
    """
    from rich.table import Table

    from qilin_rag.scorers.summary import remarks

    table = Table("metric", box=None, pad_edge=False, header_style="bold")
    more = beside or {}
    for column in ("value", "95% interval", "scored", *more):
        table.add_column(column, justify="right")
    for name, metric in metrics.items():
        interval = f"{metric.ci95[0]:.4f} .. {metric.ci95[1]:.4f}" if metric.ci95 else "-"
        value = "unscored" if metric.value is None else f"{metric.value:.4f}"
        others = (column.get(name, "") for column in more.values())
        table.add_row(name, value, interval, f"{metric.n}/{metric.n + metric.n_unscored}", *others)
    console().print(table)
    for remark in remarks(metrics):
        console().print(remark, style="yellow")


class _Harmless(logging.Formatter):
    """Writes messages so that text of a file or a server in them can't steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to the current standard error: above a progress bar while one is drawn."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """Ignore the stream that logging found when it was set up."""


def set_up_logs(quiet: bool, verbose: bool = False) -> None:
    """Send our messages to standard error: from INFO, with `quiet` from WARNING, with `verbose` from DEBUG."""
    handler = _ToStandardError()
    handler.setFormatter(_Harmless("%(message)s"))
    if not logging.getLogger().handlers:  # messages of libraries are advice to programmers
        logging.getLogger().addHandler(_of_libraries() if verbose else logging.NullHandler())
    ours = logging.getLogger("qilin_rag")
    ours.handlers = [handler]
    ours.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def _of_libraries() -> logging.Handler:
    """Return a handler that writes the warnings of libraries, and none of ours."""
    handler = _ToStandardError()
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: not record.name.startswith("qilin_rag"))
    return handler


class Bars:
    """Watches long work, and draws a bar for each stage on standard error."""

    def __init__(self, progress: Progress) -> None:
        """Draw on `progress`, which must be live."""
        self._progress = progress
        self._depth = 0

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Advance]:
        """Draw the bar of a stage; one within another is below it and is removed at its end."""
        task = self._progress.add_task(name, total=total, completed=done)
        n_failed = 0

        def advance(n: int = 1, failed: bool = False) -> None:
            nonlocal n_failed
            n_failed += n * failed
            self._progress.update(task, advance=n, description=f"{name} ({n_failed} failed)" if n_failed else name)

        self._depth += 1
        try:
            yield advance
        finally:
            self._depth -= 1
            if self._depth:
                self._progress.remove_task(task)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[None]:
    """Draw bars for the work within, unless `quiet` is set or standard error is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    from qilin_rag.cli.bars import new_progress

    with new_progress(Console(stderr=True)) as progress, watched_by(Bars(progress)):
        yield
