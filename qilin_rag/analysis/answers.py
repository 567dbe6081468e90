"""Answers that users favour: four kinds of feedback by length, citations, note types, and source of the query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qilin_rag.analysis.figures import Column, FigureTable
from qilin_rag.analysis.log import IMAGE_TEXT, VIDEO, NoteFacts, read_note_facts
from qilin_rag.analysis.queries import SOURCES
from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import share95
from qilin_rag.core.text import cited_numbers, visible
from qilin_rag.core.types import Question
from qilin_rag.data.questions import FLAGS, read_questions
from qilin_rag.data.schema import FEEDBACK
from qilin_rag.data.source import Source

_NAMES = {flag: name for name, (flag,) in ((name, flags) for name, flags in FLAGS.items() if len(flags) == 1)}
_MOST_CITATIONS = 4
_LENGTH_GROUPS = 4


def favoured_answers(source: Source) -> list[FigureTable]:
    """Return the shares of the shown answers that had each kind of feedback.

    Raises:
        UsageError: if the data has no feedback.
    """
    questions = read_questions(*source.files("dqa"), answers="shown")
    judged = [question for question in questions if all(question.meta.get(flag) in (0, 1) for flag in FEEDBACK)]
    if not judged:
        raise UsageError(f"data {str(source.folder)!r}: no answer in dqa has feedback ({', '.join(FEEDBACK)})")
    feedback = np.array([[question.meta[flag] == 1 for flag in FEEDBACK] for question in judged])
    any_kind = feedback.any(axis=1, keepdims=True)
    columns = np.hstack([any_kind, feedback])
    facts = read_note_facts(source)
    groups = [
        ("answers_length", "Feedback by length of the answer in characters", *_by_length(judged)),
        ("answers_citations", "Feedback by number of citations", *_by_citations(judged)),
        ("answers_notes", "Feedback by types of the notes cited", *_by_note_types(judged, facts)),
        ("answers_source", "Feedback by source of the query", *_by_source(judged)),
    ]
    left_out = len(questions) - len(judged)
    notes = [f"{left_out} answers without feedback recorded are left out."] if left_out else []
    notes.append(
        "Shares of the answers, with 95% intervals (Wilson, answers to one user are not independent draws); "
        "association is not causation."
    )
    user_ids = [question.meta.get("user_idx") for question in judged]
    users = np.array([-1 - i if user is None else user for i, user in enumerate(user_ids)], np.int64)
    return [_table(key, title, labels, group, columns, users, notes) for key, title, labels, group in groups]


def _table(
    key: str,
    title: str,
    labels: Sequence[str],
    group: npt.NDArray[np.int64],
    feedback: npt.NDArray[np.bool_],
    users: npt.NDArray[np.int64],
    notes: Sequence[str],
) -> FigureTable:
    shares = [Column(name="any", unit="share"), *(Column(name=_NAMES[flag], unit="share") for flag in FEEDBACK)]
    values: list[list[float | None]] = []
    intervals: list[list[tuple[float, float] | None]] = []
    for i in range(len(labels)):
        in_group = feedback[group == i]
        values.append([len(in_group), *(in_group.mean(axis=0).tolist() if len(in_group) else [None] * len(shares))])
        group_intervals = [
            share95(in_group[:, j].astype(float), users[group == i]) if len(in_group) else None
            for j in range(len(shares))
        ]
        intervals.append([None, *group_intervals])
    return FigureTable(
        key=key,
        title=title,
        columns=[Column(name="answers", unit="count"), *shares],
        rows=list(labels),
        values=values,
        ci95=intervals,
        notes=list(notes),
        why_missing="no such answer",
    )


def _by_length(questions: Sequence[Question]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return groups of about equal size."""
    lengths = np.array([len(visible(question.references[0])) for question in questions])
    ends = np.unique(np.quantile(lengths, np.linspace(0, 1, _LENGTH_GROUPS + 1)[1:], method="inverted_cdf"))
    starts = [int(lengths.min()), *(int(end) + 1 for end in ends[:-1])]
    labels = [f"{start} to {int(end)}" for start, end in zip(starts, ends, strict=True)]
    return labels, np.searchsorted(ends, lengths)


def _by_citations(questions: Sequence[Question]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return groups by the number of distinct notes that the text cites."""
    counts = np.array([len(set(cited_numbers(question.references[0]))) for question in questions])
    labels = [*map(str, range(_MOST_CITATIONS)), f"{_MOST_CITATIONS} or more"]
    return labels, np.minimum(counts, _MOST_CITATIONS)


def _by_note_types(questions: Sequence[Question], facts: NoteFacts) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return groups by the known types of the reference notes."""
    of = []
    for question in questions:
        kinds = set(facts.types_of(np.array(question.reference_notes, np.int64)).tolist()) - {0}
        of.append({frozenset({IMAGE_TEXT}): 0, frozenset({VIDEO}): 1, frozenset(): 3}.get(frozenset(kinds), 2))
    return ["image-text alone", "video alone", "both", "none known"], np.array(of)


def _by_source(questions: Sequence[Question]) -> tuple[list[str], npt.NDArray[np.int64]]:
    sources = np.array([int(question.meta.get("query_from_type") or 0) for question in questions])
    labels = [f"{i} {name}" for i, name in enumerate(SOURCES, start=1)]
    known = (sources >= 1) & (sources <= len(SOURCES))
    return [*labels, "missing"], np.where(known, sources - 1, len(SOURCES))
