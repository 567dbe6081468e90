"""Find the part of a long note that a query is about, by the characters they share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from qilin_rag.core.text import visible
from qilin_rag.core.types import Note
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import Ints
from qilin_rag.retrievers.distinct import distinct, text_digests

_STEPS_PER_LENGTH = 4


def matching_part(note: Note, query: str, n_chars: int) -> str:
    """Return title and the `n_chars` of the content that have most of the query's characters and pairs of them.

    Among equal parts the first is taken; parts begin every quarter of their length.
    """
    content = note.content
    if len(content) > n_chars:
        wanted = _pieces(query)
        step = max(1, n_chars // _STEPS_PER_LENGTH)
        parts = (content[start : start + n_chars] for start in range(0, len(content) - n_chars + step, step))
        content = max(parts, key=lambda part: len(wanted & _pieces(part)))
    return note.model_copy(update={"content": content}).text


def _pieces(text: str) -> set[str]:
    text = visible(text)
    return {*text, *map("".join, pairwise(text))}


_CHUNK_NOTES = 4096  # notes whose texts are held at a time


def note_texts(catalogue: Catalogue, note_idxs: Ints) -> list[str]:
    """Return title and content of each note, as retrievers read them; raise a UsageError for missing notes."""
    columns = catalogue.notes.read(note_idxs, ("note_idx", "note_title", "note_content")).to_pydict()
    rows = zip(*columns.values(), strict=True)
    return [Note(note_idx=note_idx, title=title, content=content).text for note_idx, title, content in rows]


def distinct_notes(catalogue: Catalogue, note_idxs: Ints) -> tuple[Ints, Ints]:
    """Find which of these notes have the same text.

    A text that is encoded in another batch has other last bits. So notes with the same text would be ordered by the
    batch, and by the order of the notes that makes the batches.

    Returns:
        A note of each distinct text, (n_texts,), in the order of a hash of the text, and for each given note the place
            in it.
    """
    notes, of = np.unique(note_idxs, return_inverse=True)
    digests = [
        text_digests(note_texts(catalogue, notes[start : start + _CHUNK_NOTES]))
        for start in range(0, len(notes), _CHUNK_NOTES)
    ]
    found = distinct(np.concatenate([np.zeros((0, 2), np.uint64), *digests]))
    return notes[found.first], found.number[of.reshape(-1)]
