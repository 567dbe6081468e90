"""Measure how long each stage of a run takes, over all its sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qilin_rag.core.errors import CeilingError, QilinError
from qilin_rag.core.types import Times
from qilin_rag.pipeline.run_directory import RunDirectory

STAGES = ("retrieval", "generation", "scoring")


class Clock:
    """The seconds of each stage in one session of a run."""

    def __init__(self) -> None:
        """Begin a session, of which nothing is recorded yet."""
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._under_way: list[str] = []
        self._since = 0.0
        self._finished: set[str] = set()
        self._before = Times()
        self._asks = False
        self._is_on_record = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as the stage `name`; a stage inside another stops the clock of the outer one."""
        self._count()
        self._under_way.append(name)
        try:
            yield
            self._finished.add(name)
        except CeilingError:
            self._asks = False  # no call was cut off
            raise
        finally:
            self._count()
            self._under_way.pop()

    def _count(self) -> None:
        """Count the seconds since the last call for the stage under way."""
        before, self._since = self._since, time.perf_counter()
        if self._under_way:
            self._seconds[self._under_way[-1]] += self._since - before

    def begin(self, before: Times, asks: bool) -> Times:
        """Return the times to record before the first call: all that remains of this session if it is killed.

        `asks`: the session will call the LLM.
        """
        self._before, self._asks, self._is_on_record = before, asks, True
        more = {"sessions": 1, "untimed": 1, "cut_off": int(asks)}
        return before.model_copy(update={name: getattr(before, name) + n for name, n in more.items()})

    def end(self) -> Times:
        """Return the times of the run with those of this session added."""
        took = {f"{stage}_s": self._seconds[stage] for stage in STAGES}
        counted = {"sessions": 1, "cut_off": int(self._asks and "generation" not in self._finished)}
        return self._before.model_copy(
            update={name: round(getattr(self._before, name) + more, 3) for name, more in {**took, **counted}.items()}
        )

    @contextmanager
    def kept_by(self, directory: RunDirectory) -> Iterator[None]:
        """Record the seconds of the session in the manifest, also if the block raises or is interrupted."""
        try:
            yield
        finally:
            if self._is_on_record:
                with suppress(QilinError):
                    directory.write_manifest(directory.read_manifest().model_copy(update={"times": self.end()}))
