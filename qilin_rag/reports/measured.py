"""Read finished runs for reports: their figures by question, side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qilin_rag.config.run import build_scorers
from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.stats import Clusters, Values, clusters_by, query_clusters
from qilin_rag.core.types import Question, Sample, Score, Summary
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.pipeline.scoring import check_names, is_misnamed, score_samples, scorers_for, summarise
from qilin_rag.scorers.citations import PRECISION, RECALL

FROM_THE_HIGHEST = "the highest is not the best by this metric: its orders and ranks go from the highest"


class Measured(NamedTuple):
    """One run: `scores[metric][question_id]`, for the questions it is about."""

    name: str
    directory: RunDirectory
    manifest: Manifest
    summary: Summary
    questions: dict[str, Question]
    scores: dict[str, dict[str, Score]]
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


def read_runs(run_directories: Sequence[Path], with_incomplete: bool = False) -> tuple[list[Measured], list[str]]:
    """Return the complete runs, and remarks on the others; a name in two folders is given with its folder.

    `with_incomplete` includes unfinished runs, as far as they are.
    """
    runs, left_out = [], []
    folders_with = Counter(path.name for path in run_directories)
    for path in run_directories:
        name = str(path) if folders_with[path.name] > 1 else path.name
        try:
            manifest = RunDirectory(path).read_manifest()
            if manifest.state == "complete":
                runs.append(read_run(path, name))
            elif with_incomplete:
                runs.append(_read_incomplete(path, name))
            else:
                left_out.append(f"left out, {manifest.state}: {name}")
        except UsageError as error:
            left_out.append(f"left out, unreadable: {error}")
    return runs, left_out


def read_run(path: Path, name: str | None = None) -> Measured:
    """Read a complete run; raise a UsageError if it is not one, or its scores are missing."""
    directory = RunDirectory(path)
    manifest = directory.read_complete()
    questions = {question.id: question for question in directory.read_questions()}
    if len(questions) != manifest.n_questions:
        raise UsageError(f"{path}: questions.jsonl has {len(questions)} of its {manifest.n_questions} questions")
    summary, its_scores = directory.read_figures()
    misnamed = [name for name, of in summary.metrics.items() if is_misnamed(manifest, name, of.signature)]
    remarks: tuple[str, ...] = ()
    if misnamed:
        kept = {metric: of for metric, of in summary.metrics.items() if metric not in misnamed}
        summary = summary.model_copy(update={"metrics": kept})
        given = f"the run asks for {manifest.identity['top_k']} notes a question"
        again = f"qilin-rag score {path} --metrics retrieval"
        remarks = (f"{', '.join(misnamed)} left out: {given}; to score them by their right names: {again}",)
    scores = directory.chosen_scores(its_scores, questions.values(), summary.metrics)
    return Measured(name or path.name, directory, manifest, summary, questions, scores, remarks)


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
    by_metric: dict[str, dict[str, Score]] = defaultdict(dict)
    for score in scores:
        by_metric[score.metric][score.question_id] = score
    summary = summarise(samples, lines, scores, manifest.seed)
    return Measured(name, directory, manifest, summary, questions, by_metric)


def values_of(runs: Sequence[Measured], metric: str, question_ids: Sequence[str]) -> Values:
    """Return the figures (n_questions, n_runs) of runs under a metric that all of them have; NaN if unscored."""
    columns = [[run.scores[metric][question_id].value for question_id in question_ids] for run in runs]
    return np.array(columns, dtype=np.float64).T.reshape(len(question_ids), len(runs))


def same_questions(a: Mapping[str, Question], b: Mapping[str, Question]) -> list[str]:
    """Return the ids of the questions that have the same text and the same references in both runs, in A's order."""
    return [
        question_id
        for question_id, question in a.items()
        if question_id in b
        and (question.query, question.references) == (b[question_id].query, b[question_id].references)
    ]


def clusters_of(questions: Sequence[Question], by: str | None = None) -> Clusters:
    """Return clusters (n_questions,) of the same query, or of the same value of a field of the questions' `meta`."""
    if by is None:
        return query_clusters([question.query for question in questions])
    if lacking := next((question for question in questions if question.meta.get(by) is None), None):
        raise unknown_name("field", by, lacking.meta, f"is not in question {lacking.id}")
    return clusters_by([str(question.meta[by]) for question in questions])
