"""Images of notes, prepared for a vision model behind a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import BytesIO

from qilin_rag.core.types import Image
from qilin_rag.data.image_files import IMAGE_PATH, open_image_files
from qilin_rag.data.notes import NoteStore

LONGEST_SIDE = 1024
THREADS = 8
"""The most threads of a caller that read images at once."""
NARROWEST = 100  # the longest ratio of sides; servers refuse narrower images


class NoteImages:
    """Reads images of notes as a vision model receives them: JPEG, in RGB, of bounded size."""

    def __init__(
        self, notes: NoteStore, longest_side: int = LONGEST_SIDE, advice: str = "name data with images"
    ) -> None:
        """Set the notes.

        Args:
            notes: The notes, which know the folder of their images.
            longest_side: The most pixels of the longer side; larger images are shrunk.
            advice: What to do if the notes have no images, for the error.

        Raises:
            UsageError: if the notes have no images, or a package that reads them is not installed.
        """
        self._notes, self._files = notes, open_image_files(notes, advice)
        self._longest_side = longest_side

    def read_all(self, paths: Sequence[str | None]) -> tuple[list[Image], Counter[str]]:
        """Return the images that can be read, and the number of the others by reason.

        Args:
            paths: Names of images, as the table of notes has them; None is counted as well.
        """
        images: list[Image] = []
        left_out: Counter[str] = Counter()
        for path in paths:
            picture, state = self._files.picture(path, _fits, self._longest_side)
            if path is None or picture is None:
                left_out[state.reason] += 1
                continue
            picture.save(jpeg := BytesIO(), "JPEG", quality=90)
            images.append(Image(path, jpeg.getvalue()))
        return images, left_out

    def of_notes(self, note_idxs: Sequence[int], n: int) -> dict[int, tuple[list[Image], Counter[str]]]:
        """Return the first images of each note that can be read, and the number of the others by reason.

        Args:
            note_idxs: The notes. One that the data does not have has no images.
            n: The most images of a note. An image that can't be read counts: the next one does not replace it.
        """
        return {note_idx: self.read_all(names) for note_idx, names in image_names(self._notes, note_idxs, n).items()}


def image_names(notes: NoteStore, note_idxs: Sequence[int], n: int) -> dict[int, list[str | None]]:
    """Return the names of the first images of each note, as the table has them; no image is read.

    Args:
        notes: The notes.
        note_idxs: Some notes. One that the data does not have names no image.
        n: The most names of a note.
    """
    missing = set(notes.missing(note_idxs))
    there = [note_idx for note_idx in dict.fromkeys(note_idxs) if note_idx not in missing]
    names = notes.read(there, [IMAGE_PATH])[IMAGE_PATH].to_pylist()
    first = {note_idx: (of_note or [])[:n] for note_idx, of_note in zip(there, names, strict=True)}
    return {note_idx: first.get(note_idx, []) for note_idx in note_idxs}


def _fits(width: int, height: int) -> bool:
    return max(width, height) <= NARROWEST * min(width, height)
