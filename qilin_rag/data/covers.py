"""Cover images of notes, read defensively: files from outside, of any kind, size and state."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from enum import IntEnum
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.data.catalogue import Catalogue

if TYPE_CHECKING:
    from PIL.Image import Image


logger = logging.getLogger(__name__)
FORMATS = ("WEBP", "JPEG", "PNG")
MAX_FILE_BYTES = 64 * 2**20


class CoverState(IntEnum):
    """The state of a note's cover."""

    UNREAD = 0
    READ = 1
    NONE = 2
    OUTSIDE = 3
    MISSING = 4
    TOO_LARGE = 5
    TOO_NARROW = 6
    DAMAGED = 7


_IN_WORDS = {
    CoverState.NONE: "not named in the table",
    CoverState.OUTSIDE: "outside the folder of the data",
    CoverState.MISSING: "missing",
    CoverState.TOO_LARGE: "too large",
    CoverState.TOO_NARROW: "too narrow",
    CoverState.DAMAGED: "damaged or of another format",
}


class Covers:
    """Reads the first image of each note (None if it can't be read) and counts the states of the covers."""

    def __init__(self, catalogue: Catalogue, fits: Callable[[int, int], bool]) -> None:
        """Set the notes; `fits(width, height)` returns whether the model accepts a picture of this shape."""
        if catalogue.images is None or "image_path" not in catalogue.notes.columns:
            raise UsageError(
                "the data has no images: the notes have no image_path; rank without image (--without image)"
            )
        self._root = catalogue.images.resolve()
        self._notes = catalogue.notes
        self._fits = fits
        # Shared with the processes that read ahead; each sets the bytes of the notes that it read.
        self._states = np.frombuffer(RawArray("B", max(1, len(catalogue.notes))), np.uint8)

    def read(self, note_idx: int) -> Image | None:
        """Return the cover in RGB."""
        paths = self._notes.read([note_idx], ["image_path"])["image_path"][0].as_py()
        image, state = (None, CoverState.NONE) if not paths else self._open(paths[0])
        self._states[self._notes.slots([note_idx])[0]] = state
        return image

    def counts(self) -> dict[CoverState, int]:
        """Return the number of notes in each state, among the notes read so far."""
        found = np.bincount(self._states, minlength=len(CoverState))
        return {state: int(found[state]) for state in CoverState if state != CoverState.UNREAD}

    def tell(self) -> None:
        """Log how many notes have a cover, and why the others have none."""
        counts = self.counts()
        n_read = counts.pop(CoverState.READ)
        n_others = sum(counts.values())
        reasons = ", ".join(f"{counts[state]} {words}" for state, words in _IN_WORDS.items() if counts[state])
        log = logger.warning if n_others > n_read else logger.info
        log(
            "covers: %d of %d notes have one that can be read%s",
            n_read,
            n_read + n_others,
            f"; {reasons}" if reasons else "",
        )

    def _open(self, name: str) -> tuple[Image | None, CoverState]:
        path = _below(self._root, name)
        if path is None:
            return None, CoverState.OUTSIDE
        try:
            if not path.is_file():
                return None, CoverState.MISSING
            if path.stat().st_size > MAX_FILE_BYTES:
                return None, CoverState.TOO_LARGE
            return self._decode(path)
        except OSError:  # a name that is too long, or a failing disk
            return None, CoverState.MISSING

    def _decode(self, path: Path) -> tuple[Image | None, CoverState]:
        from PIL import Image

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                with Image.open(path, formats=FORMATS) as image:
                    if not self._fits(*image.size):
                        return None, CoverState.TOO_NARROW
                    return image.convert("RGB"), CoverState.READ
            except (Image.DecompressionBombWarning, Image.DecompressionBombError, MemoryError):
                return None, CoverState.TOO_LARGE
            except Exception as error:  # decoders raise any error on damaged files
                logger.debug("%s: %s", path, error)
                return None, CoverState.DAMAGED


def _below(root: Path, name: str) -> Path | None:
    """Return the target of a name in a table; None unless it is below the folder after following links."""
    try:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
        return None
    return path if path.is_relative_to(root) else None
