"""What rankers read of a note."""

from __future__ import annotations

from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Ints
from qilin_rag.types import Note


def note_texts(catalogue: Catalogue, note_idxs: Ints) -> list[str]:
    """Title and content of each of these notes, as retrievers read them; a UsageError names those that are missing."""
    columns = catalogue.notes.read(note_idxs, ("note_idx", "note_title", "note_content")).to_pydict()
    rows = zip(*columns.values(), strict=True)
    return [Note(note_idx=note_idx, title=title, content=content).text for note_idx, title, content in rows]
