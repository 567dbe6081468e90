"""Datasets: notes with random access, and questions, from files in any supported encoding."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.note_fields import IMAGE_TEXT, TITLE_AND_CONTENT, NoteField
from qilin_rag.core.types import AnswerSelection, ReferenceSelection
from qilin_rag.data.dataset import Dataset
from qilin_rag.data.notes import NoteStore, open_notes_of
from qilin_rag.data.questions import read_questions
from qilin_rag.data.source import SAMPLE_LABEL, open_source

__all__ = ["SAMPLE_LABEL", "Dataset", "NoteStore", "load_dataset"]


def load_dataset(
    name: str,
    answers: AnswerSelection = "engaged",
    references: ReferenceSelection = "own",
    fetch: bool = True,
    note_fields: Sequence[NoteField] = TITLE_AND_CONTENT,
) -> Dataset:
    """Open a dataset.

    Args:
        name: `sample` or `sample-images` (bundled), a folder with the tables notes and dqa, or `hub:OWNER/NAME`.
        answers: Which answers make a question.
        references: Whether answers to the same query are references, too.
        fetch: Whether a dataset of the hub may be downloaded.
        note_fields: The fields that make the text of a note: title, content, image_text.

    Raises:
        UsageError: if the dataset can't be read, or was not downloaded before and `fetch` is false.
    """
    source = open_source(name, ["notes", "dqa", *({IMAGE_TEXT} & {*note_fields})], fetch=fetch)
    notes, dqa = open_notes_of(source, note_fields), source.files("dqa")
    return Dataset(
        name=source.name,
        label=source.label,
        notes=notes,
        questions=read_questions(*dqa, answers, references),
    )
