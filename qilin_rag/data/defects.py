"""Defects of questions that a run tolerates but that make its figures less reliable: counted for the run's report."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.text import has_words, is_blank, query_key
from qilin_rag.core.types import Question, QuestionDefects
from qilin_rag.data.notes import NoteStore


def has_query(question: Question) -> bool:
    """Return whether the question has a readable query."""
    return not is_blank(question.query)


def count_defects(questions: Sequence[Question], notes: NoteStore, n_empty_queries: int = 0) -> QuestionDefects:
    """Count the defects in the questions of a run.

    Args:
        questions: The questions that are asked.
        notes: All notes of the data.
        n_empty_queries: The number of questions that are not asked because their query is empty.
    """
    dangling = set(notes.missing([note_idx for question in questions for note_idx in question.reference_notes]))
    empty = [sum(not has_words(reference) for reference in question.references) for question in questions]
    distinct = {(query_key(question.query), tuple(question.references)) for question in questions}
    return QuestionDefects(
        empty_queries=n_empty_queries,
        dangling_notes=len(dangling),
        questions_with_dangling_notes=sum(not dangling.isdisjoint(question.reference_notes) for question in questions),
        empty_references=sum(empty),
        questions_with_empty_references=sum(n > 0 for n in empty),
        repeated_questions=len(questions) - len(distinct),
    )
