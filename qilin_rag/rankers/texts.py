"""What rankers read of a note."""

from __future__ import annotations

import numpy as np

from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import Ints
from qilin_rag.retrievers.distinct import distinct, text_digests
from qilin_rag.types import Note

_CHUNK_NOTES = 4096  # whose texts are held at a time


def note_texts(catalogue: Catalogue, note_idxs: Ints) -> list[str]:
    """Title and content of each of these notes, as retrievers read them; a UsageError names those that are missing."""
    columns = catalogue.notes.read(note_idxs, ("note_idx", "note_title", "note_content")).to_pydict()
    rows = zip(*columns.values(), strict=True)
    return [Note(note_idx=note_idx, title=title, content=content).text for note_idx, title, content in rows]


def distinct_notes(catalogue: Catalogue, note_idxs: Ints) -> tuple[Ints, Ints]:
    """Find which of these notes have the same text.

    A text that is encoded in another batch has another last bit, so notes of one text would be ordered by the batch,
    and batches go by whatever orders the notes.

    Returns:
        A note of each distinct text, (n_texts,), in the order of a hash of the text, and the place in it of each of
        the notes given.
    """
    notes, of = np.unique(note_idxs, return_inverse=True)
    digests = [
        text_digests(note_texts(catalogue, notes[start : start + _CHUNK_NOTES]))
        for start in range(0, len(notes), _CHUNK_NOTES)
    ]
    found = distinct(np.concatenate([np.zeros((0, 2), np.uint64), *digests]))
    return notes[found.first], found.number[of.reshape(-1)]
