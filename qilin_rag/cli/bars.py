"""Lay out progress bars: done of total, rate, failures and time left, in a line of any width."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

_LEAST_LABEL = 12
_BAR_WIDTH = 20
_NARROW_BAR_WIDTH = 8
_NARROW = 80  # columns; at fewer than these the bar itself is short
_BESIDE_LABEL = 22  # columns for rate, time left and gaps


def new_progress(console: Console) -> Progress:
    """Return a display whose lines fit the console; labels too long for it are cut in the middle."""
    from rich.progress import Progress

    progress = Progress(console=console)
    progress.columns = tuple(_columns(progress))
    return progress


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a text so that it fits `width` columns.

    Keeps the beginning, which names the run, and the end, which names the stage and the failures.
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    end = text.rpartition(": ")[2]
    n_end = min(cell_len(end), max(width - 4, width // 2))
    tail = text
    while cell_len(tail) > n_end:
        tail = tail[1:]
    head = set_cell_size(text, width - 1 - cell_len(tail)).rstrip(" ,:")
    return f"{head}…{tail}"


def format_rate(per_s: float | None) -> str:
    """Write steps a second, or a minute or hour if they are slow; empty if not known."""
    if not per_s:
        return ""
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if (rate := per_s * factor) >= 1 or unit == "h":
            return f"{rate:.1f}/{unit}" if rate < 100 else f"{rate:,.0f}/{unit}"
    return ""


def _columns(progress: Progress) -> list[ProgressColumn]:
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    bar_width = _NARROW_BAR_WIDTH if progress.console.width < _NARROW else _BAR_WIDTH

    class BarLabel(ProgressColumn):
        def render(self, task: Task) -> Text:
            widest_count = max(2 * len(f"{other.total or 0:.0f}") + 1 for other in progress.tasks)
            room = progress.console.width - _BESIDE_LABEL - bar_width - widest_count
            return Text(shorten(task.description, max(_LEAST_LABEL, room)), no_wrap=True)

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(format_rate(task.finished_speed or task.speed), style="progress.data.speed", no_wrap=True)

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            if task.finished:
                return Text(_clock(task.finished_time), style="progress.elapsed", no_wrap=True)
            left = super().render(task)
            return left if task.time_remaining is None else Text.assemble(left, " left")

    return [BarLabel(), BarColumn(bar_width=bar_width), MofNCompleteColumn(), Rate(), Left(compact=True)]


def _clock(seconds: float | None) -> str:
    """Write the seconds of a finished stage as the time left is written."""
    minutes, rest = divmod(round(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
