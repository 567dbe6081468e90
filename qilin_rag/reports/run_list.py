"""List the state of runs: progress, whether a process writes it, the outcome of its questions, and its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines
from qilin_rag.core.types import Frozen, MetricSummary, Score, Status
from qilin_rag.pipeline.run_directory import SAMPLES, SUMMARY, Manifest, RunDirectory
from qilin_rag.pipeline.scoring import is_misnamed
from qilin_rag.rankers.ranking_directory import MANIFEST as RANKING
from qilin_rag.rankers.ranking_directory import RankingDirectory
from qilin_rag.reports.finding import find_runs

State = Literal["complete", "incomplete", "in use", "unreadable"]
"""`complete`: every question was asked, and every answer is scored. `in use`: a process writes the run at this moment.
`incomplete`: no process does, and questions are left; the same command resumes it.
"""


class ListedRun(Frozen):
    """A run in a list. `unit` is what `done` and `total` count; `figures` are means over the scored questions."""

    run: Path
    kind: Literal["run", "ranking"] = "run"
    state: State
    unit: str = "questions"
    done: NonNegativeInt = 0
    total: NonNegativeInt = 0
    statuses: dict[str, int] = {}
    started: str | None = None
    figures: dict[str, float | None] = {}
    why: str | None = None

    def __str__(self) -> str:
        if self.why is not None:
            return f"{self.state}: {self.why}"
        return f"{self.state}, {self.progress}"

    @property
    def progress(self) -> str:
        """Describe how many are done, and the outcome if not all are answered."""
        done = f"{self.done} of {self.total}" if self.done < self.total else f"{self.total}"
        return f"{done} {self.unit}{describe_statuses(self.statuses)}"


class _RunOutcome(BaseModel):
    """The part of a line of samples.jsonl that a list needs."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question_id: str
    status: Status


def describe_statuses(statuses: Mapping[str, int]) -> str:
    """Describe the outcome of questions: `: 57 ok, 3 failed`, or `: all failed`; empty if all are ok."""
    found = {status: n for status, n in statuses.items() if n}
    if not set(found) - {"ok"}:
        return ""
    if len(found) == 1:
        return f": all {next(iter(found))}"
    return ": " + ", ".join(f"{n} {status}" for status, n in found.items())


def list_runs(folders: Sequence[Path]) -> list[ListedRun]:
    """Return the runs and rankings in folders of runs, the latest first; unreadable ones say why.

    Raises:
        UsageError: A folder does not exist.
    """
    runs = [_listed(path) for path in find_runs(folders)]
    rankings = [_listed_ranking(path) for path in find_runs(folders, RANKING)]
    return sorted([*runs, *rankings], key=lambda run: (run.started or "", run.run.name), reverse=True)


def state_of(directory: RunDirectory, manifest: Manifest) -> State:
    """Return the state of a run at this moment."""
    if manifest.state == "complete":
        return "complete"
    return "in use" if directory.is_in_use else "incomplete"


def figures_of(directory: RunDirectory, manifest: Manifest) -> tuple[dict[str, MetricSummary], list[Score]]:
    """Return the figures of a run, empty if it has no summary, and the scores that they are computed from.

    Figures that an earlier version named wrongly are left out.
    """
    if (directory.path / SUMMARY).exists():
        summary, scores = directory.read_figures()
        metrics = summary.metrics
    else:
        metrics, scores = {}, directory.read_scores()
    return (
        {name: of for name, of in metrics.items() if not is_misnamed(manifest, name, of.signature)},
        [score for score in scores if not is_misnamed(manifest, score.metric, score.signature)],
    )


def _listed(path: Path) -> ListedRun:
    directory = RunDirectory(path)
    try:
        manifest = directory.read_manifest()
        lines = read_lines(path / SAMPLES, _RunOutcome, half_line_ok=True)
        wanted = {question.id for question in directory.read_questions()}
        outcomes = {line.question_id: line.status for line in lines if line.question_id in wanted}
        counts = Counter(outcomes.values())
        return ListedRun(
            run=path,
            state=state_of(directory, manifest),
            done=len(outcomes),
            total=manifest.n_questions,
            statuses={status: counts[status] for status in get_args(Status) if counts[status]},
            started=manifest.started,
            figures={name: of.value for name, of in figures_of(directory, manifest)[0].items()},
        )
    except UsageError as error:
        return ListedRun(run=path, state="unreadable", why=str(error))


def _listed_ranking(path: Path) -> ListedRun:
    directory = RankingDirectory(path)
    try:
        manifest = directory.read_manifest()
        is_in_use = manifest.state != "complete" and RunDirectory(path).is_in_use
        listed = ListedRun(run=path, kind="ranking", unit="requests", state="in use" if is_in_use else manifest.state)
        if manifest.state != "complete":
            return listed
        summary = directory.read_summary()
        n_requests = summary.counts["requests"]
        figures = {name: of.value for name, of in summary.metrics.items()}
        return listed.model_copy(update={"done": n_requests, "total": n_requests, "figures": figures})
    except UsageError as error:
        return ListedRun(run=path, kind="ranking", state="unreadable", why=str(error))
