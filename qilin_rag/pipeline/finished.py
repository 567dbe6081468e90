"""A finished run, for Python: its files, its figures, and a row for each question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qilin_rag.core.tables import FIGURE_COLUMNS, as_frame, as_html, figure_cells
from qilin_rag.core.types import MetricSummary, Summary
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory

if TYPE_CHECKING:
    from pandas import DataFrame


class Run(NamedTuple):
    """A finished run: where it is, and its figures.

    Attributes:
        directory: Reads the files of the run.
        manifest: Describes how the run was made.
        summary: Has its figures, and the status of its questions.

    Example:
        >>> import qilin_rag as qr
        >>> finished = qr.run(metrics="rouge_l", limit=20)
        >>> finished.metrics["rouge_l"].n, finished.path.is_dir(), len(finished.to_frame())
        (20, True, 20)
    """

    directory: RunDirectory
    manifest: Manifest
    summary: Summary

    @property
    def path(self) -> Path:
        """Return the run directory."""
        return self.directory.path

    @property
    def metrics(self) -> dict[str, MetricSummary]:
        """Return each figure by the name of its metric: `value`, `ci95`, `n`, `n_unscored`, `signature`."""
        return self.summary.metrics

    def to_frame(self) -> DataFrame:
        """Return the run as a pandas DataFrame with a row for each question, and a column for each metric.

        Ids of notes are lists, `note_ids` best first. A value is missing if the question is unscored.

        Raises:
            UsageError: pandas is not installed, or files of the run are gone.
        """
        questions = self.directory.read_questions()
        samples = self.directory.read_samples_of(questions)
        summary, all_scores = self.directory.read_figures()
        scores = self.directory.chosen_scores(all_scores, questions, summary.metrics)
        rows = []
        for question in questions:
            sample = samples[question.id]
            rows.append(
                {
                    "question_id": question.id,
                    "query": question.query,
                    "references": question.references,
                    "reference_note_ids": question.reference_notes,
                    "status": sample.status,
                    "answer": sample.answer,
                    "note_ids": [hit.note_idx for hit in sample.hits] if sample.has_known_hits else None,
                    "prompt_tokens": sample.usage.prompt_tokens,
                    "completion_tokens": sample.usage.completion_tokens,
                    "latency_s": sample.latency_s,
                    "error": sample.error,
                    **{metric: of[question.id].value for metric, of in scores.items()},
                }
            )
        return as_frame(rows, numbers={*scores, "latency_s"})

    def _repr_html_(self) -> str:
        """Return the figures as an HTML table, for a notebook."""
        return as_html(FIGURE_COLUMNS, [figure_cells(name, of) for name, of in self.metrics.items()])
