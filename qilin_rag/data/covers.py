"""Cover images of notes for a model that is trained or asked here, with counts of those that can't be read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING

import numpy as np

from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.image_files import IMAGE_PATH, open_image_files
from qilin_rag.data.pictures import ImageState

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class Covers:
    """Reads the first image of each note (None if it can't be read) and counts the states of the covers."""

    def __init__(self, catalogue: Catalogue, fits: Callable[[int, int], bool]) -> None:
        """Set the notes; `fits(width, height)` returns whether the model accepts a picture of this shape."""
        self._files = open_image_files(catalogue.notes, "rank without image (--without image)")
        self._notes = catalogue.notes
        self._fits = fits
        # Shared with the processes that read ahead; each sets the bytes of the notes that it read.
        self._states = np.frombuffer(RawArray("B", max(1, len(catalogue.notes))), np.uint8)

    def read(self, note_idx: int) -> Image | None:
        """Return the cover in RGB."""
        paths = self._notes.read([note_idx], [IMAGE_PATH])[IMAGE_PATH][0].as_py()
        image, state = self._files.picture(paths[0], self._fits) if paths else (None, ImageState.NONE)
        self._states[self._notes.slots([note_idx])[0]] = state
        return image

    def counts(self) -> dict[ImageState, int]:
        """Return the number of notes in each state, among the notes read so far."""
        found = np.bincount(self._states, minlength=len(ImageState))
        return {state: int(found[state]) for state in ImageState if state != ImageState.UNREAD}

    def tell(self) -> None:
        """Log how many notes have a cover, and why the others have none."""
        counts = self.counts()
        n_read = counts.pop(ImageState.READ)
        n_others = sum(counts.values())
        reasons = ", ".join(f"{n} {state.in_words}" for state, n in counts.items() if n)
        log = logger.warning if n_others > n_read else logger.info
        log(
            "covers: %d of %d notes have one that can be read%s",
            n_read,
            n_read + n_others,
            f"; {reasons}" if reasons else "",
        )
