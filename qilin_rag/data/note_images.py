"""Images of notes, prepared for a vision model behind a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import BytesIO

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.types import Image
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.covers import Covers, CoverState

LONGEST_SIDE = 1024
NARROWEST = 100  # the longest ratio of sides; servers refuse narrower images


class NoteImages(Covers):
    """Images of notes as a vision model receives them: JPEG, at most 1024 pixels a side."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Set the notes.

        Raises:
            UsageError: if the notes have no images.
        """
        if "image_path" not in catalogue.notes.columns:
            raise UsageError("images (--images): the notes of this data have no image_path")
        require("rankers", "PIL", what="images (--images)")
        super().__init__(catalogue, lambda width, height: max(width, height) <= NARROWEST * min(width, height))

    def read_all(self, paths: Sequence[str]) -> tuple[list[Image], Counter[str]]:
        """Return the images that can be read, and the number of the others by reason."""
        images: list[Image] = []
        left_out: Counter[str] = Counter()
        for path in paths:
            picture, state = self._open(path)
            if picture is None or state is not CoverState.READ:
                left_out[state.name.lower().replace("_", " ")] += 1
                continue
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            picture.save(jpeg := BytesIO(), "JPEG", quality=90)
            images.append(Image(path, jpeg.getvalue()))
        return images, left_out
