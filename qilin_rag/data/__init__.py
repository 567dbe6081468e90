"""Datasets: notes, read by random access, and questions, whatever they are encoded in."""

from __future__ import annotations

from qilin_rag.core.types import AnswerSelection, ReferenceSelection
from qilin_rag.data.dataset import Dataset
from qilin_rag.data.notes import NoteStore, open_notes
from qilin_rag.data.questions import read_questions
from qilin_rag.data.source import SAMPLE_LABEL, open_source

__all__ = ["SAMPLE_LABEL", "Dataset", "NoteStore", "load_dataset"]


def load_dataset(
    name: str, answers: AnswerSelection = "engaged", references: ReferenceSelection = "own", fetch: bool = True
) -> Dataset:
    """Open a dataset: `sample` (bundled), a folder with the tables notes and dqa, or `hub:OWNER/NAME`.

    `answers` says which answers make a question, `references` whether those to the same query are references too.
    Without `fetch`, a data set of the hub that was not fetched before is an error.
    """
    source = open_source(name, fetch=fetch)
    notes, dqa = source.files("notes"), source.files("dqa")
    return Dataset(
        name=source.name,
        label=source.label,
        notes=open_notes(*notes),
        questions=read_questions(*dqa, answers, references),
    )
