"""Decode pictures that come from outside: whatever the bytes are, no error passes, and memory is bounded."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

FORMATS = ("WEBP", "JPEG", "PNG", "GIF")
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 2**25
"""The most pixels of a picture, 33 million; twice as many of a JPEG. The worst takes 0.8 GB to decode."""
_ORIENTATION = 0x0112  # the EXIF tag
_LARGE_PIXELS = 2**22


class ImageState(IntEnum):
    """Whether an image was read, or why it was not."""

    UNREAD = 0
    READ = 1
    NONE = 2
    OUTSIDE = 3
    MISSING = 4
    TOO_LARGE = 5
    TOO_NARROW = 6
    DAMAGED = 7
    DAMAGED_ARCHIVE = 8

    @property
    def reason(self) -> str:
        """Return the reason as a short name, for counts in files."""
        return self.name.lower().replace("_", " ")

    @property
    def in_words(self) -> str:
        """Return the reason in words, for people."""
        return _IN_WORDS[self]


_IN_WORDS = {
    ImageState.UNREAD: "not read yet",
    ImageState.READ: "read",
    ImageState.NONE: "not named in the table",
    ImageState.OUTSIDE: "outside the folder of the data",
    ImageState.MISSING: "missing",
    ImageState.TOO_LARGE: "too large",
    ImageState.TOO_NARROW: "too narrow",
    ImageState.DAMAGED: "damaged or of another format",
    ImageState.DAMAGED_ARCHIVE: "in a damaged archive",
}


class _Quiet:
    """Ignores warnings while any thread decodes: about odd metadata, and about sizes that are checked here.

    Python's filters belong to the whole process, so that the first thread sets them and the last one resets them.
    """

    def __init__(self) -> None:
        self._lock, self._n = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._n += 1
            if self._n == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n -= 1
            if not self._n:
                self._filters.__exit__(None, None, None)


_quiet = _Quiet()


def decode(
    content: bytes, fits: Callable[[int, int], bool], longest_side: int | None = None
) -> tuple[Image | None, ImageState]:
    """Decode a picture to RGB: its first frame, upright, transparent parts white.

    Args:
        content: The bytes of a file, of any kind.
        fits: `fits(width, height)` returns whether a picture of this shape is wanted.
        longest_side: The most pixels of the longer side; larger pictures are shrunk. None keeps the size.

    Returns:
        The picture, or None and the reason.
    """
    from PIL import Image

    with _quiet:
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as file:
                width, height = file.size
                if width * height > MAX_PIXELS * (2 if file.format in ("JPEG", "MPO") else 1):
                    return None, ImageState.TOO_LARGE
                if not fits(width, height):
                    return None, ImageState.TOO_NARROW
                if width * height <= _LARGE_PIXELS:
                    return _upright_rgb(file, longest_side), ImageState.READ
                decoding = _thread_for_large(os.getpid()).submit(_upright_rgb, file, longest_side)
                return decoding.result(), ImageState.READ
        except (Image.DecompressionBombError, MemoryError):
            return None, ImageState.TOO_LARGE
        except Exception as error:  # decoders raise any error on damaged files
            logger.debug("a picture can't be decoded: %s", error)
            return None, ImageState.DAMAGED


@lru_cache(1)
def _thread_for_large(process_id: int) -> ThreadPoolExecutor:
    """Return the one thread of a process that decodes large pictures, one by one.

    A lock is not enough: the C library keeps the memory that a thread freed for that thread, so that each of many would
    hold what its largest picture took.
    """
    return ThreadPoolExecutor(1, f"large-pictures-{process_id}")


def _upright_rgb(file: Image, longest_side: int | None) -> Image:
    """Return the first frame in RGB, turned as its EXIF data say, and shrunk."""
    size = (longest_side, longest_side) if longest_side else None
    if size:
        file.draft("RGB", size)  # a JPEG is decoded at a half, a quarter or an eighth of its size
    file.load()
    picture = _as_rgb(file)
    if size:
        picture.thumbnail(size)
    return _turned(picture, file)


def _as_rgb(file: Image) -> Image:
    from PIL import Image

    if file.has_transparency_data:
        seen = file.convert("RGBA")
        white = Image.new("RGB", file.size, "white")
        white.paste(seen, mask=seen.getchannel("A"))
        return white
    if file.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip
        return file.point(lambda value: value / 256).convert("L").convert("RGB")
    return file.convert("RGB")


def _turned(picture: Image, file: Image) -> Image:
    from PIL.Image import Transpose

    try:
        orientation = file.getexif().get(_ORIENTATION)
    except Exception as error:  # damaged EXIF data raise any error; the picture itself is sound
        logger.debug("EXIF data can't be read: %s", error)
        return picture
    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(ways[orientation]) if orientation in ways else picture
