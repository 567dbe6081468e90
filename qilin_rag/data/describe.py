"""What is in a data set, in figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from qilin_rag.data.encodings import present_columns, read_batches
from qilin_rag.data.notes import open_notes
from qilin_rag.data.questions import FLAGS, normalised_query, read_questions
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import Source

Figures = dict[str, dict[str, int | float]]


def describe(source: Source) -> Figures:
    """Figures by subject: each table, the notes, and the questions with answers; lengths are in characters."""
    there = source.tables()
    figures: Figures = {}
    for name in there:
        encoding, files = source.files(name)
        key = [TABLES[name].key]
        n_rows = sum(len(batch.rows) for path in files for batch in read_batches(encoding, path, TABLES[name], key))
        figures[f"table {name}"] = {"rows": n_rows, "columns": len(present_columns(encoding, files, TABLES[name]))}
    if "notes" in there:
        figures["notes"] = _notes(source)
    if "dqa" in there:
        figures["answers"] = _answers(source)
    return figures


def _notes(source: Source) -> dict[str, int | float]:
    encoding, files = source.files("notes")
    columns = ["note_title", "note_content"]
    titles: list[int] = []
    contents: list[int] = []
    for path in files:
        for batch in read_batches(encoding, path, TABLES["notes"], columns):
            for lengths, column in zip((titles, contents), batch.rows.columns, strict=True):
                lengths += pc.fill_null(pc.utf8_length(column), 0).to_pylist()
    return {
        "without text": sum(not title and not content for title, content in zip(titles, contents, strict=True)),
        **_lengths("title", titles),
        **_lengths("content", contents),
    }


def _answers(source: Source) -> dict[str, int | float]:
    """Answers shown, by the feedback they had, with the notes they cite."""
    questions = read_questions(*source.files("dqa"), answers="shown")
    has_feedback = any(flag in question.meta for question in questions for flag in FLAGS["engaged"])
    selections = {
        f"{name}": sum(any(question.meta.get(flag) == 1 for flag in flags) for question in questions)
        for name, flags in FLAGS.items()
        if flags and has_feedback
    }
    cited = [note_idx for question in questions for note_idx in question.reference_notes]
    figures: dict[str, int | float] = {
        "shown": len(questions),
        **selections,
        "distinct queries": len({normalised_query(question.query) for question in questions}),
        **_lengths("answer", [len(text) for question in questions for text in question.references]),
        "reference notes a question, mean": len(cited) / len(questions),
    }
    if "notes" in source.tables():
        missing = open_notes(*source.files("notes")).missing(cited)
        figures["reference notes not in the data"] = len(missing)
    return figures


def _lengths(what: str, lengths: Sequence[int]) -> dict[str, int | float]:
    values = np.array(lengths or [0])
    return {f"{what} length, median": float(np.median(values)), f"{what} length, longest": int(values.max())}
