"""The images of notes, made ready for a vision model behind a server."""

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
NARROWEST = 100  # sides of 1 : 100; servers refuse what is narrower


class NoteImages(Covers):
    """The images of notes as a vision model is sent them: JPEG, at most 1024 points a side."""

    def __init__(self, catalogue: Catalogue) -> None:
        """UsageError where the notes have none."""
        if "image_path" not in catalogue.notes.columns:
            raise UsageError("--images: the notes of this data have no image_path")
        require("rankers", "PIL", what="--images")
        super().__init__(catalogue, lambda width, height: max(width, height) <= NARROWEST * min(width, height))

    def read_all(self, paths: Sequence[str]) -> tuple[list[Image], Counter[str]]:
        """Those that can be read, and how many can't, by reason."""
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
