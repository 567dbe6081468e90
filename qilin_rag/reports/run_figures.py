"""Read a run's figures by question, from its files or as they were kept when they were last read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from qilin_rag.core.stats import Values
from qilin_rag.core.types import Question, Score, Summary
from qilin_rag.pipeline.run_directory import NEW_SCORES, QUESTIONS, SCORES, SUMMARY, RunDirectory
from qilin_rag.reports.kept_run import KeptPart

_FILES = (QUESTIONS, SCORES, NEW_SCORES, SUMMARY)


class RunFigures(NamedTuple):
    """A summary with the figures that it is of.

    `values[metric]` are in the order of the questions, NaN if unscored; a metric that lacks scores has none.
    `questions_sha256` is the hash of the questions' file.
    """

    questions_sha256: str
    summary: Summary
    values: dict[str, Values]

    def pack(self) -> bytes:
        """Return the figures as bytes: a line of JSON, then the values of one metric after the other."""
        header = [self.questions_sha256, self.summary.model_dump(mode="json"), list(self.values)]
        return json.dumps(header).encode() + b"\n" + b"".join(column.tobytes() for column in self.values.values())

    @classmethod
    def unpack(cls, content: bytes) -> RunFigures:
        """Return the figures that `pack` made bytes of."""
        header, _, values = content.partition(b"\n")
        questions_sha256, summary, metrics = json.loads(header)
        columns = np.frombuffer(values, np.float64).reshape(len(metrics), -1) if metrics else np.empty((0, 0))
        return cls(questions_sha256, Summary.model_validate(summary), dict(zip(metrics, columns, strict=True)))


def read_figures(
    directory: RunDirectory, known_questions: dict[str, dict[str, Question]]
) -> tuple[dict[str, Question], RunFigures]:
    """Return the questions of a complete run by id, and its figures.

    Args:
        directory: The run.
        known_questions: The questions of other runs by the hash of their file; those of this run are added.

    Raises:
        UsageError: The scores are missing, or were not made as the summary says.
    """
    part = KeptPart(directory.path, "figures", _FILES)
    if (content := part.read()) is not None:
        figures = RunFigures.unpack(content)
        digest, questions = figures.questions_sha256, known_questions.get(figures.questions_sha256)
        if questions is None:
            digest, questions = directory.read_questions_once(known_questions)
        if digest == figures.questions_sha256:  # else they were replaced just now
            return questions, figures
    digest, questions = directory.read_questions_once(known_questions)
    summary, scores = directory.read_figures()
    by_metric: dict[str, dict[str, float | None]] = {metric: {} for metric in summary.metrics}
    for score in scores:
        if score.metric in by_metric and score.question_id in questions:
            by_metric[score.metric][score.question_id] = score.value
    values = {
        metric: _in_order(questions, of_metric)
        for metric, of_metric in by_metric.items()
        if len(of_metric) == len(questions)
    }
    figures = RunFigures(digest, summary, values)
    part.keep(figures.pack())
    return questions, figures


def figures_by(question_ids: Iterable[str], scores: Iterable[Score]) -> Values:
    """Return the figures of scores in the order of these questions, NaN for unscored and missing ones."""
    return _in_order(question_ids, {score.question_id: score.value for score in scores})


def _in_order(question_ids: Iterable[str], values: dict[str, float | None]) -> Values:
    return np.array([values.get(question_id) for question_id in question_ids], dtype=np.float64)
