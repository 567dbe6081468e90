"""The interface of hooks: a class that is told when a run has ended, and gets the run as plain values."""

from __future__ import annotations

from abc import abstractmethod
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import FiniteFloat

from qilin_rag.core.registry import Component
from qilin_rag.core.types import Frozen


class TrackedRun(Frozen):
    """A run as hooks get it: plain values, without a key, and without an address that holds a password.

    Args:
        name (str): The name of the run directory.
        path (Path): The run directory, absolute.
        fingerprint (str): The hash of everything that can change the run's output.
        params (dict): Settings by dotted name (`retriever.settings.k1`), with the hash of the data and the version of
            this package. Values are text, numbers or truth values; none is null.
        metrics (dict): Figures by name. `rouge_l` has `rouge_l.low` and `rouge_l.high`, its 95% interval, and
            `rouge_l.n`, the number of scored questions. Others are `count/...`, `tokens/...`, `cost/amount` and
            `time/..._s`, in seconds.
        columns (list): The names of the columns of `rows`.
        rows (list): A row for each question (for a ranking: each request) with its scores; None for no score. At most
            10,000 rows, each text cut to 500 characters.
        files (list): Files of the run that are small enough to be copied: its manifest and its summary.
        started (datetime): The time at which the run began.
        ended (datetime): The time of its last change.
        tracked_as (str): The id that the hook returned for this run directory before; None at the first time.

    Example:
        >>> import qilin_rag as qr
        >>> from qilin_rag.pipeline.hooks.record import read_tracked
        >>> run = read_tracked(qr.run(metrics="rouge_l", limit=20).path)
        >>> run.params["retriever.name"], run.params["top_k"], run.metrics["count/questions"]
        ('bm25', 5, 20.0)
        >>> run.metrics["rouge_l.low"] < run.metrics["rouge_l"] < run.metrics["rouge_l.high"]
        True
    """

    name: str
    path: Path
    fingerprint: str
    params: dict[str, str | bool | int | FiniteFloat]
    metrics: dict[str, FiniteFloat]
    columns: list[str]
    rows: list[list[Any]]
    files: list[Path]
    started: datetime
    ended: datetime
    tracked_as: str | None = None


class Hook(Component):
    """Something that is told of runs when they have ended, in a process of its own.

    To add one, write a subclass with the method `ended`, and name it `package.module:Class`, or register it under the
    entry point group `qilin_rag.hooks`. Whatever a hook does, the run is not changed by it: an exception, `sys.exit` or
    a hang is one warning, and what it prints is not shown.

    Attributes:
        timeout_s (float): The seconds after which the process of the hook is stopped.

    Example:
        >>> class Log(Hook):
        ...     def ended(self, run: TrackedRun) -> str | None:
        ...         with open("runs.log", "a") as log:
        ...             print(run.name, run.metrics["rouge_l"], file=log)
    """

    timeout_s: ClassVar[float] = 120.0

    def check(self) -> None:
        """Check before a run whether this hook can be used here: its packages are installed.

        Raises:
            UsageError: It can't. Nothing was spent yet.
        """
        return

    @abstractmethod
    def ended(self, run: TrackedRun) -> str | None:
        """Take a complete run; it is called again if the run is resumed, scored again or judged.

        Args:
            run: The run, with all figures that it has now.

        Returns:
            The tracker's own id of the run, which the next call gets as `run.tracked_as`; None to keep none. Letters,
            digits, `.`, `-` and `_`, at most 200.
        """

    def failed(self, run: TrackedRun, reason: str) -> str | None:
        """Take a run that an error stopped; the same command may resume it later. Does nothing if not overridden.

        Args:
            run: The run, without figures.
            reason: The error in one line.

        Returns:
            As `ended`.
        """
        return run.tracked_as
