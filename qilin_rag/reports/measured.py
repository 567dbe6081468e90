"""Read finished runs for reports: their figures by question, side by side."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from qilin_rag.config.run import build_scorers
from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.figure_store import kept_figures
from qilin_rag.core.plain_files import FileState, file_state
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.stats import Clusters, Values, clusters_by, query_clusters
from qilin_rag.core.types import Question, Sample, Score, Summary
from qilin_rag.pipeline.run_directory import (
    MANIFEST,
    NEW_SCORES,
    QUESTIONS,
    SAMPLES,
    SCORES,
    SUMMARY,
    TREC_RUN,
    Manifest,
    RunDirectory,
)
from qilin_rag.pipeline.scoring import check_names, is_misnamed, score_samples, scorers_for, summarise
from qilin_rag.reports.details import Details, Hits
from qilin_rag.reports.run_figures import figures_by, read_figures
from qilin_rag.scorers.citations import PRECISION, RECALL

FROM_THE_HIGHEST = "the highest is not the best by this metric: its orders and ranks go from the highest"
V = TypeVar("V")
State = tuple[FileState, ...]


class Measured(NamedTuple):
    """One run: `values[metric]` are its figures in the order of `questions`, NaN if unscored."""

    name: str
    directory: RunDirectory
    manifest: Manifest
    summary: Summary
    questions: dict[str, Question]
    values: dict[str, Values]
    details: Details
    remarks: tuple[str, ...] = ()
    """Remarks on figures that are left out."""

    @property
    def llm(self) -> str:
        """Return the LLM's name in tables, with the run's note."""
        note = self.manifest.config.get("note")
        return self.manifest.labels["llm"] + (f" ({note})" if note else "")

    def signature(self, metric: str) -> str | None:
        """Return the signature of this run's figures of a metric; None if it has none."""
        found = self.summary.metrics.get(metric)
        return found.signature if found else None

    def samples(self) -> dict[str, Sample]:
        """Read the samples again, one for each question; raise a UsageError if one is missing."""
        return self.directory.read_samples_of(self.questions.values())


def highest_is_best(signature: str) -> bool:
    """Return whether higher is better in a metric; its signature has `best:lowest` if not."""
    return "|best:" not in signature


def rests_on_reference_notes(metric: str) -> bool:
    """Return whether a metric compares notes with the reference notes: retrieval figures, and citations."""
    return "@" in metric or metric in (PRECISION, RECALL)


@kept_figures()
def read_runs(
    run_directories: Sequence[Path], with_incomplete: bool = False, cache: RunCache | None = None
) -> tuple[list[Measured], list[str]]:
    """Return the complete runs, and remarks on the others; a name in two folders is given with its folder.

    `with_incomplete` includes unfinished runs, as far as they are. `cache` keeps the runs for the next call.
    """
    cache = cache or RunCache()
    runs, left_out = [], []
    folders_with = Counter(path.name for path in run_directories)
    for path in run_directories:
        name = str(path) if folders_with[path.name] > 1 else path.name
        try:
            run = cache.read(path, with_incomplete)
        except UsageError as error:
            left_out.append(f"left out, unreadable: {error}")
            continue
        if isinstance(run, Measured):
            runs.append(run._replace(name=name))
        else:
            left_out.append(f"left out, {run}: {name}")
    cache.forget_deleted()
    return runs, left_out


class RunCache:
    """Runs as they were last read, so that a run is read again only if one of its files has changed.

    Runs over the same questions share them in memory. `lock` is for those who use a cache from several threads.

    Example:
        >>> cache = RunCache()
        >>> tables = [leaderboard_of(paths, cache=cache) for _ in range(2)]  # doctest: +SKIP
    """

    def __init__(self) -> None:
        """Begin without any run."""
        self.lock = threading.RLock()
        self._runs: dict[tuple[Path, bool], tuple[State, Measured | str | UsageError]] = {}
        self._questions: dict[str, dict[str, Question]] = {}
        self._hits: dict[str, Hits] = {}

    def read(self, path: Path, with_incomplete: bool = False) -> Measured | str:
        """Return a run, or the state of one that is not complete.

        Args:
            path: The run directory.
            with_incomplete: Whether to score an unfinished run as far as it is.

        Raises:
            UsageError: if it can't be read.
        """
        now = state_of_files(path)
        known = self._runs.get((path, with_incomplete))
        if known is None or known[0] != now:
            known = now, self._read(path, with_incomplete)
            self._runs[path, with_incomplete] = known
        if isinstance(known[1], UsageError):
            raise UsageError(str(known[1]))
        return known[1]

    def forget_deleted(self) -> None:
        """Forget the runs whose folder is gone, and the questions and notes that no other run has."""
        self._runs = {key: known for key, known in self._runs.items() if key[0].exists()}
        runs = [run for _, run in self._runs.values() if isinstance(run, Measured)]
        _keep_used(self._questions, (run.questions for run in runs))
        _keep_used(self._hits, (run.details.known_hits for run in runs))

    def _read(self, path: Path, with_incomplete: bool) -> Measured | str | UsageError:
        try:
            state = RunDirectory(path).read_manifest().state
            if state != "complete" and not with_incomplete:
                return state
            if state == "complete":
                run = read_run(path, known_questions=self._questions)
            else:
                run = _read_incomplete(path, path.name)
        except UsageError as error:
            return UsageError(str(error))  # without its frames, which would hold all that was read
        run.details.share(self._hits)
        return run


def _keep_used(known: dict[str, V], used: Iterable[V | None]) -> None:
    used_ids = set(map(id, used))
    for name, value in list(known.items()):  # at once: another thread may add one
        if id(value) not in used_ids:
            del known[name]


def state_of_files(path: Path) -> State:
    """Return what tells whether a file of a run has changed: the inode, size and times of each.

    Args:
        path: The run directory.
    """
    return tuple(
        file_state(path / name) for name in (MANIFEST, QUESTIONS, SAMPLES, SCORES, NEW_SCORES, SUMMARY, TREC_RUN)
    )


def read_run(
    path: Path, name: str | None = None, known_questions: dict[str, dict[str, Question]] | None = None
) -> Measured:
    """Read a complete run; raise a UsageError if it is not one, or its scores are missing.

    `known_questions` are shared by runs (see `RunDirectory.read_questions_once`).
    """
    directory = RunDirectory(path)
    manifest = directory.read_complete()
    questions, figures = read_figures(directory, {} if known_questions is None else known_questions)
    summary = figures.summary
    if len(questions) != manifest.n_questions:
        raise UsageError(f"{path}: questions.jsonl has {len(questions)} of its {manifest.n_questions} questions")
    misnamed = [name for name, of in summary.metrics.items() if is_misnamed(manifest, name, of.signature)]
    remarks: tuple[str, ...] = ()
    if misnamed:
        kept = {metric: of for metric, of in summary.metrics.items() if metric not in misnamed}
        summary = summary.model_copy(update={"metrics": kept})
        given = f"the run asks for {manifest.identity['top_k']} notes a question"
        again = f"qilin-rag score {path} --metrics retrieval"
        remarks = (f"{', '.join(misnamed)} left out: {given}; to score them by their right names: {again}",)
    if lacking := next((metric for metric in summary.metrics if metric not in figures.values), None):
        raise directory.lacks_scores(lacking)
    values = {metric: figures.values[metric] for metric in summary.metrics}
    details = Details(directory, manifest, questions)
    return Measured(name or path.name, directory, manifest, summary, questions, values, details, remarks)


def _read_incomplete(path: Path, name: str) -> Measured:
    """Read the answers of an incomplete run, and score them by the run's own metrics."""
    directory = RunDirectory(path)
    manifest = directory.read_manifest()
    finished, lines = directory.read_samples()
    asked = [question for question in directory.read_questions() if question.id in finished]
    if not asked:
        raise UsageError(f"{path} has no answer yet")
    metrics = manifest.config["metrics"]
    if foreign := next((name for name in metrics if SCORERS.names_code(name, metrics[name])), None):
        raise UsageError(f"{path} is incomplete, and its metric {foreign} is not one of the registered ones")
    samples = [finished[question.id] for question in asked]
    scorers = build_scorers(metrics).values()
    check_names(scorers)
    scores = score_samples(scorers_for(manifest, scorers), samples, asked)
    questions = {question.id: question for question in asked}
    by_metric: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        by_metric[score.metric].append(score)
    values = {metric: figures_by(questions, of_metric) for metric, of_metric in by_metric.items()}
    summary = summarise(samples, lines, scores, manifest.seed)
    return Measured(name, directory, manifest, summary, questions, values, Details(directory, manifest, questions))


def values_of(runs: Sequence[Measured], metric: str, question_ids: Sequence[str]) -> Values:
    """Return the figures (n_questions, n_runs) of runs under a metric that all of them have; NaN if unscored."""
    columns = [_in_order(run, metric, question_ids) for run in runs]
    return np.array(columns, dtype=np.float64).T.reshape(len(question_ids), len(runs))


def same_questions(a: Mapping[str, Question], b: Mapping[str, Question]) -> list[str]:
    """Return the ids of the questions that have the same text and the same references in both runs, in A's order."""
    return [
        question_id
        for question_id, question in a.items()
        if question_id in b
        and (question.query, question.references) == (b[question_id].query, b[question_id].references)
    ]


def _in_order(run: Measured, metric: str, question_ids: Sequence[str]) -> Values:
    if list(run.questions) == question_ids:
        return run.values[metric]
    places = dict(zip(run.questions, range(len(run.questions)), strict=True))
    return run.values[metric][[places[question_id] for question_id in question_ids]]


def clusters_of(questions: Sequence[Question], by: str | None = None) -> Clusters:
    """Return clusters (n_questions,) of the same query, or of the same value of a field of the questions' `meta`."""
    if by is None:
        return query_clusters([question.query for question in questions])
    if lacking := next((question for question in questions if question.meta.get(by) is None), None):
        raise unknown_name("field", by, lacking.meta, f"is not in question {lacking.id}")
    return clusters_by([str(question.meta[by]) for question in questions])
