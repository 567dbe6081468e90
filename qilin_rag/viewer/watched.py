"""One run, or one ranking, that is watched: what is known of it, and which of its files changed since the last look."""

from __future__ import annotations

import itertools
import stat
from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from qilin_rag.core.directories import is_locked
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Cost, Price, QueryUse, RerankUse, Summary
from qilin_rag.pipeline.cost import add_costs, cost_of, price_of, total_cost
from qilin_rag.pipeline.queries import query_price
from qilin_rag.pipeline.run_directory import (
    MANIFEST,
    NEW_SCORES,
    QUERIES,
    QUESTIONS,
    REPEATS,
    SAMPLES,
    SCORES,
    SUMMARY,
    RunDirectory,
)
from qilin_rag.pipeline.scoring import is_misnamed
from qilin_rag.rankers.ranking_directory import MANIFEST as RANKING
from qilin_rag.rankers.ranking_directory import RankingDirectory
from qilin_rag.viewer.counting import STATUSES, Counting, Pace
from qilin_rag.viewer.rows import RunRow, State

_MOST_BYTES = {QUESTIONS: 256 << 20, SCORES: 1 << 30}  # other files are read in pieces, or not if they are large
_DAMAGED = (QilinError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
_MOST_TRIES = 3
_MOST_CHARS, _MOST_FIGURES = 1000, 200  # of a row; only a stranger's run has more
Stamp = tuple[int, int, int, int] | None
"""The size, times and inode of a file; None if it does not exist."""


class Budget(NamedTuple):
    """The work that a look may do for a run: about how many bytes of samples to read, and whether also of other files.

    A run that is being written gets its bytes in any case.
    """

    most_bytes: int
    is_ample: bool


class Watched:
    """A directory that is watched. A look reads only what changed in it.

    Args:
        key: Its key in `Folders`.
        path: The directory.
    """

    kind: ClassVar[Literal["run", "ranking"]]
    names: ClassVar[Sequence[str]]

    def __init__(self, key: str, path: Path) -> None:
        self.id, self.path = f"{self.kind}/{key}", path
        self._key = key
        self._stamps: dict[str, Stamp] = {}
        self._settled: RunRow | None = None
        self._is_known = False

    def look(self, now_s: float, budget: Budget) -> RunRow:
        """Return the row at this moment.

        Args:
            now_s: The time in seconds since the epoch.
            budget: The work that may be done.
        """
        for _ in range(_MOST_TRIES):
            row, is_settled = self._try(now_s, budget)
            if row.state != "unreadable" or self._is_as_seen():  # else a file was replaced while others were read
                break
        self._settled = row if is_settled else None
        return row

    def _try(self, now_s: float, budget: Budget) -> tuple[RunRow, bool]:
        try:
            if self._settled is not None and self._is_as_seen():
                return self._settled, True
            is_held = is_locked(self.path)  # before the manifest is read: whoever has ended by now has written it
            before, self._stamps = self._stamps, _stamps_of(self.path, self.names)
            changed = {name for name in self.names if not self._is_known or self._stamps[name] != before[name]}
            self._is_known = True
            return self._look(now_s, budget, changed, is_held)
        except _DAMAGED as error:
            self._is_known = False
            return self._row("unreadable", why=_short(" ".join(str(error).split()) or type(error).__name__)), True

    def _is_as_seen(self) -> bool:
        try:
            return _stamps_of(self.path, self.names) == self._stamps
        except UsageError:
            return False

    @abstractmethod
    def _look(self, now_s: float, budget: Budget, changed: set[str], is_held: bool) -> tuple[RunRow, bool]:
        """Return the row, and whether it stays so as long as no file changes."""

    def _row(self, state: State, **facts: Any) -> RunRow:
        return RunRow(id=self.id, key=self._key, kind=self.kind, state=state, **facts)


class _Facts(NamedTuple):
    """The part of a manifest that is kept."""

    labels: dict[str, str]
    is_complete: bool
    total: int
    started: str
    updated: str
    price: Price | None
    is_first_session: bool
    reranked: RerankUse | None
    has_queries: bool
    query_price: Price | None
    queries: QueryUse | None


class WatchedRun(Watched):
    """A run that is watched."""

    kind = "run"
    names = (MANIFEST, QUESTIONS, SAMPLES, REPEATS, QUERIES, SCORES, NEW_SCORES, SUMMARY)
    _facts: _Facts
    _summary: Summary | None
    _figures: dict[str, float | None] | None

    def __init__(self, key: str, path: Path) -> None:
        super().__init__(key, path)
        self._directory = RunDirectory(path)
        self._counting = Counting(path)
        self._pace = Pace()
        self._is_behind = True

    def _look(self, now_s: float, budget: Budget, changed: set[str], is_held: bool) -> tuple[RunRow, bool]:
        if MANIFEST in changed:
            self._read_facts()
        if QUESTIONS in changed:
            self._counting.restart()
        if changed & {MANIFEST, SCORES, NEW_SCORES, SUMMARY}:
            self._summary = self._directory.read_summary() if self._stamps[SUMMARY] else None
            self._figures = None if self._summary else {}
        if self._figures is None and budget.is_ample:
            self._check_figures()
        facts = self._facts
        row = {
            **facts.labels,
            "total": facts.total,
            "started": facts.started,
            "updated": facts.updated,
            "figures": self._figures or {},
        }
        if facts.is_complete and self._summary is not None:
            self._counting.restart()
            self._is_behind = True
            row |= _counts_of(self._summary, facts)
            is_read = self._figures is not None
            return self._row("complete", **row, is_read=is_read), is_read
        self._is_behind |= bool(changed & {MANIFEST, QUESTIONS, SAMPLES, REPEATS, QUERIES})
        if self._is_behind and (budget.is_ample or is_held):
            self._counting.read(budget.most_bytes)
            self._is_behind = not self._counting.is_at_end
        row |= self._counts(facts)
        is_read = not self._is_behind and self._figures is not None
        state: State = "complete" if facts.is_complete else "running" if is_held else "interrupted"
        if state == "running":
            row |= self._progress(now_s, facts)
        else:
            self._pace.stop()
            if is_read:
                self._counting.rest()
        return self._row(state, **row, is_read=is_read), state == "complete" and is_read

    def _read_facts(self) -> None:
        manifest = self._directory.read_manifest()
        self._facts = _Facts(
            {name: _short(str(label)) for name, label in manifest.labels.items()},
            manifest.state == "complete",
            manifest.n_questions,
            _short(manifest.started),
            _short(manifest.updated),
            price_of(manifest),
            manifest.times is not None and manifest.times.sessions == 1,
            manifest.rerank,
            bool(manifest.config.get("query")),
            query_price(manifest.config),
            manifest.queries,
        )

    def _check_figures(self) -> None:
        """Take the figures of the summary, if they are of the scores beside it."""
        summary = self._directory.read_summary_of_scores()
        manifest = self._directory.read_manifest()
        known = {
            name: of.value for name, of in summary.metrics.items() if not is_misnamed(manifest, name, of.signature)
        }
        self._figures = _few(known)

    def _counts(self, facts: _Facts) -> dict[str, Any]:
        counting = self._counting
        statuses = counting.statuses
        written = self._stamps[SAMPLES]
        return {
            "done": sum(statuses.values()),
            "statuses": statuses,
            "failed": counting.failed,
            **_spent(counting.spent, facts, _cost_of_queries(counting, facts)),
            "updated": self._facts.updated if written is None else max(self._facts.updated, _as_time(written)),
        }

    def _progress(self, now_s: float, facts: _Facts) -> dict[str, Any]:
        """Return how fast the run is, and how long it takes if it stays so."""
        if not self._is_behind:
            began = self._stamps[MANIFEST]
            if not self._pace.is_known and facts.is_first_session and began is not None:
                self._pace.add(min(now_s, began[1] / 1e9), 0)
            self._pace.add(now_s, self._counting.n_asked)
        rate = self._pace.rate
        left = facts.total - sum(self._counting.statuses.values())
        return {
            "rate": None if rate is None else round(rate, 2),
            "left_s": round(60 * left / rate) if rate and left > 0 else None,
        }


class WatchedRanking(Watched):
    """A ranking that is watched. It writes no progress."""

    kind = "ranking"
    names = (RANKING, SUMMARY)

    def _look(self, now_s: float, budget: Budget, changed: set[str], is_held: bool) -> tuple[RunRow, bool]:
        directory = RankingDirectory(self.path)
        manifest = directory.read_manifest()
        facts: dict[str, Any] = {
            "unit": "requests",
            "data": _short(
                ", ".join(filter(None, (manifest.label, manifest.config.task, manifest.config.of_candidates)))
            ),
            "retriever": _short(manifest.ranker.name),
            "started": _short(manifest.started),
            "updated": _short(manifest.updated),
        }
        if manifest.state != "complete":
            return self._row("running" if is_held else "interrupted", **facts), False
        summary = directory.read_summary()
        n_requests = summary.counts["requests"]
        figures = _few({name: of.value for name, of in summary.metrics.items()})
        return self._row("complete", **facts, done=n_requests, total=n_requests, figures=figures), True


def _counts_of(summary: Summary, facts: _Facts) -> dict[str, Any]:
    statuses = {status: n for status in STATUSES if (n := summary.counts.get(status, 0))}
    return {
        "done": summary.counts.get("questions", sum(statuses.values())),
        "statuses": statuses,
        "failed": summary.lost,
        **_spent(summary, facts, None if facts.queries is None else facts.queries.cost),
    }


def _cost_of_queries(counting: Counting, facts: _Facts) -> Cost | None:
    """Return the cost of the query stage so far; None without one."""
    return cost_of(counting.spent_on_queries, facts.query_price) if facts.has_queries else None


def _spent(summary: Summary, facts: _Facts, of_queries: Cost | None) -> dict[str, Any]:
    cost = total_cost(cost_of(summary, facts.price), facts.reranked)
    return {
        "usage": summary.usage,
        "cached": summary.cached,
        "retries": summary.retries,
        "cost": cost if of_queries is None else add_costs(cost, of_queries),
    }


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]} …"


def _few(figures: dict[str, float | None]) -> dict[str, float | None]:
    return {_short(name): value for name, value in itertools.islice(figures.items(), _MOST_FIGURES)}


def _as_time(stamp: tuple[int, int, int, int]) -> str:
    return datetime.fromtimestamp(stamp[1] / 1e9, UTC).isoformat(timespec="seconds")


def _stamps_of(path: Path, names: Sequence[str]) -> dict[str, Stamp]:
    """Return the state of these files.

    Raises:
        UsageError: if one is a link, not a file, or so large that it must not be read whole.
    """
    return {name: _stamp_of(path / name) for name in names}


def _stamp_of(path: Path) -> Stamp:
    try:
        state = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode):
        raise UsageError(f"{path.name} is a link or not a file; move it away")
    if state.st_size > _MOST_BYTES.get(path.name, state.st_size):
        raise UsageError(f"{path.name} has {state.st_size >> 20} MB, too much to be one of ours")
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
