"""Find the place of each note's images in a rendered prompt, without a word about images in its template.

A marker is put behind the content of a note and the template is filled again: the note's text ends before the marker
in the result. The text with markers is used for nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence

from qilin_rag.core.types import Note

Fill = Callable[[Sequence[Note]], str]
_FIELDS = ("content", "title")
"""The fields with which a note may end: its title only if a template leaves out an empty content."""


def find_places(fill: Fill, notes: Sequence[Note], wanted: Sequence[int]) -> dict[int, int]:
    """Return after how many characters of a prompt each note ends.

    A note that the prompt shows more than once ends at its first end. A note that it does not show to the end, or not
    as it is, has its place at the end of the prompt. A note without content that a template treats in another way ends
    with its title.

    Args:
        fill: Returns the text of the prompt with these notes.
        notes: The notes in the order of the prompt.
        wanted: The positions of the notes to find among `notes`.

    Returns:
        The number of characters by the note's position.
    """
    text = fill(notes)
    markers = _markers([text, *(part for note in notes for part in (note.title, note.content))], wanted)
    places = _read_places(fill(_marked(notes, markers, _FIELDS[0])), text, markers)
    for i, marker in markers.items():
        for field in _FIELDS if not notes[i].content.strip() else _FIELDS[:1]:
            if i not in places:  # alone, since one that changes the text hides the places of the others
                places |= _read_places(fill(_marked(notes, {i: marker}, field)), text, {i: marker})
    return {i: places.get(i, len(text)) for i in wanted}


def _markers(texts: Sequence[str], wanted: Sequence[int]) -> dict[int, str]:
    """Return a marker for each note. It follows from the texts, and none of them holds it or can foresee it."""
    secret = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    while any(secret in text for text in texts):
        secret = hashlib.sha256(secret.encode()).hexdigest()
    return {i: f"{secret}n{i}n" for i in wanted}


def _marked(notes: Sequence[Note], markers: Mapping[int, str], field: str) -> list[Note]:
    return [
        note.model_copy(update={field: getattr(note, field) + markers[i]}) if i in markers else note
        for i, note in enumerate(notes)
    ]


def _read_places(marked: str, text: str, markers: Mapping[int, str]) -> dict[int, int]:
    """Return the places of the markers that came out whole; none if the text around them is not that without them."""
    numbers = {marker: i for i, marker in markers.items()}
    pieces = re.split("|".join(map(re.escape, numbers)), marked)
    joined = "".join(pieces)
    if joined.strip() != text.strip():
        return {}
    n_stripped = len(joined) - len(joined.lstrip()) - (len(text) - len(text.lstrip()))
    places: dict[int, int] = {}
    n_chars = 0
    for piece, marker in zip(pieces, re.findall("|".join(map(re.escape, numbers)), marked), strict=False):
        n_chars += len(piece)
        places.setdefault(numbers[marker], min(max(0, n_chars - n_stripped), len(text)))
    return places
