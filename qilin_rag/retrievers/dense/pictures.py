"""Read the images of notes for a dense index: in threads, counted by why some are left out, and hashed.

An index says which images it was made of by a hash of their content, taken when they are encoded. Reading all images
again at each opening would take hours, so an opened index is compared with few of them.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.text import counted
from qilin_rag.core.types import Image
from qilin_rag.data import NoteStore
from qilin_rag.data.image_files import IMAGE_PATH
from qilin_rag.data.note_images import THREADS, NoteImages
from qilin_rag.retrievers.distinct import Digests, digests_of

logger = logging.getLogger(__name__)
_NOTES_OF_A_THREAD = 16
_COMPARED = 32  # notes whose images are read when an index is opened
_NAMED_AT_ONCE = 65536  # notes whose image paths are hashed at a time


class Pictured(NamedTuple):
    """The images of some notes.

    Attributes:
        images: The images of each note, as JPEG.
        digests: A hash of the images of each note, shape (n_notes, 2); zeros for none.
        left_out: The number of images that can't be read, by reason, and of notes that name none.
    """

    images: list[list[bytes]]
    digests: Digests
    left_out: Counter[str]


class NotePictures:
    """Reads the first images of notes.

    Attributes:
        n: The most images of a note.
    """

    def __init__(self, notes: NoteStore, n: int, longest_side: int) -> None:
        """Set the notes.

        Args:
            notes: The notes, which know the folder of their images.
            n: The most images of a note.
            longest_side: The most pixels of the longer side of an image.

        Raises:
            UsageError: if the notes name no images, or their folder is not known.
        """
        self._notes = notes
        self.n = n
        self._reader = NoteImages(notes, longest_side, "set note_input to text")

    def read(self, note_idxs: Sequence[int]) -> Pictured:
        """Return the images of these notes, read in threads."""
        parts = [note_idxs[i : i + _NOTES_OF_A_THREAD] for i in range(0, len(note_idxs), _NOTES_OF_A_THREAD)]
        with ThreadPoolExecutor(THREADS) as pool:
            found: dict[int, tuple[list[Image], Counter[str]]] = {}
            for of_part in pool.map(lambda part: self._reader.of_notes(part, self.n), parts):
                found |= of_part
        left_out: Counter[str] = Counter()
        images: list[list[bytes]] = []
        for note_idx in note_idxs:
            of_note, reasons = found[note_idx]
            images.append([image.jpeg for image in of_note])
            left_out.update(reasons if of_note or reasons else ["none named"])
        digests = digests_of(b"".join(hashlib.sha256(image).digest() for image in of_note) for of_note in images).copy()
        digests[[not of_note for of_note in images]] = 0
        return Pictured(images, digests, left_out)

    def names_sha256(self) -> str:
        """Return a hash of the image paths in the table, of as many of each note as are read."""
        total = hashlib.sha256()
        for start in range(0, len(self._notes), _NAMED_AT_ONCE):
            rows = self._notes.note_idxs[start : start + _NAMED_AT_ONCE]
            paths = self._notes.read(rows, [IMAGE_PATH])[IMAGE_PATH].combine_chunks()
            first = pc.list_slice(paths, 0, self.n)
            flat = pc.list_flatten(first).cast(pa.large_string()).fill_null("")
            for numbers in (pc.list_value_length(first).fill_null(0), pc.binary_length(flat)):
                total.update(numbers.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
            total.update("".join(flat.to_pylist()).encode("utf-8", "surrogatepass"))
        return total.hexdigest()

    def changed(self, note_idxs: npt.NDArray[np.int64], digests: Digests) -> str:
        """Return in words whether a few of the images are others than before; empty if they are not.

        An image that can't be read any more is no change: the index still has its vector.

        Args:
            note_idxs: The notes, shape (n_notes,).
            digests: The hashes of their images as they were, shape (n_notes, 2).
        """
        rows = np.random.default_rng(0).permutation(len(digests))[:_COMPARED]
        now = self.read(note_idxs[rows].tolist()).digests
        n_others = int((now.any(axis=1) & (now != digests[rows]).any(axis=1)).sum())
        return f"images have changed: those of {n_others} of the {len(rows)} notes looked at" if n_others else ""


def tell(n_notes: int, n_with: int, left_out: Counter[str], note_input: str) -> None:
    """Log how many notes have images, why the others have none, and what becomes of these."""
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))
    others = "can't be found" if note_input == "image" else "are found by their text alone"
    logger.log(
        logging.WARNING if 2 * n_with < n_notes else logging.INFO,
        "images: %d of %s have one that can be read%s%s",
        *(n_with, counted(n_notes, "note"), f" (left out: {reasons})" if reasons else ""),
        f"; the other {n_notes - n_with} {others}" if n_with < n_notes else "",
    )
