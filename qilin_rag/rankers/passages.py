"""The part of a long note that a query is about, as far as its characters tell."""

from __future__ import annotations

from itertools import pairwise

from qilin_rag.text import visible
from qilin_rag.types import Note

_STEPS_PER_LENGTH = 4


def matching_part(note: Note, query: str, n_chars: int) -> str:
    """Title and the `n_chars` of the content that have most of the query's characters and pairs of them.

    Of those that have as many the first; parts begin every quarter of their length.
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
