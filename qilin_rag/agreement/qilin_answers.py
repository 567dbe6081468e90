"""Read Qilin's answers with what their users did: the flags of the table dqa, and whether they searched again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.core.stats import Clusters, clusters_by
from qilin_rag.data.encodings import present_columns, read_batches
from qilin_rag.data.exposures import MISSING, Ints
from qilin_rag.data.feedback import RE_SEARCH_MINUTES, AnswerFeedback, read_feedback, read_re_searches
from qilin_rag.data.notes import NoteStore, open_notes
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import Source

ENGAGED = "engaged"
"""The label of any flag."""
NO_RE_SEARCH = "no_re_search"
"""The label of users who did not search again for the same need. It is noisy."""


class LabelledAnswers(NamedTuple):
    """The `n` answers that were shown, and their labels.

    Attributes:
        queries: The query of each answer.
        texts: The text of each answer.
        notes: The texts of the reference notes of each answer, in the order that its citations count; None for a note
            that the data lacks.
        users: (n,), the user of each answer as a cluster; an unknown user is one of its own.
        labels: (n,) by label: 1 speaks for the answer, 0 does not, -1 is not known.
        remarks: What the data lacks.
    """

    queries: Sequence[str]
    texts: Sequence[str]
    notes: Sequence[Sequence[str | None]]
    users: Clusters
    labels: Mapping[str, Ints]
    remarks: Sequence[str] = ()


def read_labelled_answers(source: Source, minutes: float = RE_SEARCH_MINUTES) -> LabelledAnswers:
    """Read the answers, their reference notes and their labels.

    Args:
        source: The data, with the tables dqa and notes.
        minutes: The most minutes between an answer and a search for the same need.

    Returns:
        The answers. If the table dqa does not have the results shown, there is no label of another search.

    Raises:
        UsageError: if a table is missing or has a defect, or `minutes` is out of range.
    """
    feedback = read_feedback(source)
    texts, note_idxs = _texts_and_notes(source, feedback.ids)
    remarks = []
    labels = labels_of(feedback)
    if _has_results(source):
        again = read_re_searches(source, minutes)
        labels[NO_RE_SEARCH] = no_re_search(np.array([again.get(name, MISSING) for name in feedback.ids], np.int64))
    else:
        remarks.append("the table dqa lacks search_result_details_with_idx, so it isn't known who searched again")
    notes = _note_texts(open_notes(*source.files("notes")), note_idxs)
    n_missing = sum(text is None for texts_of in notes for text in texts_of)
    if n_missing:
        n_named = sum(map(len, notes))
        remarks.append(f"{n_missing} of {n_named} reference notes are not in the data; measures go without them")
    if n_unknown := int((feedback.user_idx < 0).sum()):
        remarks.append(f"the user of {n_unknown} of {len(texts)} answers is not known; each counts as another user")
    return LabelledAnswers(feedback.queries, texts, notes, user_clusters(feedback.user_idx), labels, remarks)


def labels_of(feedback: AnswerFeedback) -> dict[str, Ints]:
    """Return the labels of the flags: any flag first, then each flag."""
    return {ENGAGED: feedback.engaged, **feedback.flags}


def no_re_search(label: Ints) -> Ints:
    """Turn labels of another search round, so that 1 speaks for the answer; -1 stays."""
    return np.where(label < 0, MISSING, 1 - label)


def user_clusters(user_idx: Ints) -> Clusters:
    """Return the cluster of each user, shape (n,); each unknown user (-1) is one of its own."""
    return clusters_by([user if user >= 0 else ("unknown", row) for row, user in enumerate(user_idx.tolist())])


def _has_results(source: Source) -> bool:
    return "search_result_details_with_idx" in present_columns(*source.files("dqa"), TABLES["dqa"])


def _texts_and_notes(source: Source, ids: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """Return the text and the reference notes of each answer."""
    encoding, files = source.files("dqa")
    names = ["search_idx", "dqa_output", "ref_note_idx_list"]
    rows = {
        row["search_idx"]: row
        for path in files
        for batch in read_batches(encoding, path, TABLES["dqa"], names)
        for row in batch.rows.to_pylist()
    }
    found = [rows[name] for name in ids]
    return [row["dqa_output"] for row in found], [row.get("ref_note_idx_list") or [] for row in found]


def _note_texts(notes: NoteStore, note_idxs: Sequence[Sequence[int]]) -> list[list[str | None]]:
    named = sorted({note_idx for each in note_idxs for note_idx in each if note_idx is not None})
    missing = set(notes.missing(named))
    there = [note_idx for note_idx in named if note_idx not in missing]
    text_of = {note.note_idx: f"{note.title}\n{note.content}" for note in notes.get(there)}
    return [[text_of.get(note_idx) for note_idx in each] for each in note_idxs]
