"""Small copies of the images of notes for pages: read safely, encoded anew, and bounded in size and number."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted
from qilin_rag.data import Dataset
from qilin_rag.data.note_images import NoteImages, image_names
from qilin_rag.data.pictures import ImageState
from qilin_rag.pipeline.run_directory import Manifest

ImageMode = Literal["none", "embed", "link"]
MEDIA_TYPE = "image/webp"
LONGEST_SIDE = 320
MOST_IMAGE_BYTES = 48 << 10
USUAL_PER_NOTE = 3
"""The most images of a note that are shown if no run sent any."""
MOST_PER_NOTE = 10
_QUALITIES = (70, 40, 10)
_NOTES_KEPT = 128
_TOO_LARGE = "too large"
REASONS = frozenset(
    state.reason for state in ImageState if state not in (ImageState.UNREAD, ImageState.READ, ImageState.NONE)
)
"""Why an image may not be shown."""


class Thumbnail(NamedTuple):
    """A small copy of an image, or the reason why there is none."""

    content: bytes
    why: str = ""


class Limits(NamedTuple):
    """The most questions with images, and the most bytes of images, of one report."""

    questions: int
    n_bytes: int


LIMITS: Mapping[ImageMode, Limits] = {
    "none": Limits(0, 0),
    "embed": Limits(200, 10 << 20),
    "link": Limits(2_000, 100 << 20),
}


class NoteThumbnails:
    """The small copies of the first images of notes.

    Args:
        dataset: The notes.
        n: The most images of a note.

    Raises:
        UsageError: if the data has no images, or Pillow is not installed.
    """

    def __init__(self, dataset: Dataset, n: int) -> None:
        self._notes, self._n = dataset.notes, n
        self._images = NoteImages(dataset.notes, LONGEST_SIDE)
        self._read = lru_cache(_NOTES_KEPT)(self._make)
        self._reading = threading.Lock()  # a page asks for all images of a note at once, which are made once

    def counts(self, note_idxs: Iterable[int]) -> dict[int, int]:
        """Return how many images notes of the data name, at most `n` each; no image is read."""
        return {note_idx: len(names) for note_idx, names in self._names(note_idxs).items()}

    def of_note(self, note_idx: int) -> Sequence[Thumbnail]:
        """Return the thumbnails of a note, in the order of its images; none if the data has no such note."""
        with self._reading:
            return self._read(note_idx)

    def _names(self, note_idxs: Iterable[int]) -> dict[int, list[str]]:
        named = image_names(self._notes, sorted(set(note_idxs)), self._n)
        return {note_idx: [name for name in of_note if name is not None] for note_idx, of_note in named.items()}

    def _make(self, note_idx: int) -> tuple[Thumbnail, ...]:
        return tuple(map(self._thumbnail, self._names([note_idx])[note_idx]))

    def _thumbnail(self, name: str) -> Thumbnail:
        images, left_out = self._images.read_all([name])
        if not images:
            return Thumbnail(b"", next(iter(left_out), ""))
        for quality in _QUALITIES:
            if len(content := _as_webp(images[0].jpeg, quality)) <= MOST_IMAGE_BYTES:
                return Thumbnail(content)
        return Thumbnail(b"", _TOO_LARGE)


class Album:
    """The thumbnails of a report, up to the limits of its mode.

    Args:
        mode: Whether the page holds the images, or links to files beside it.
        folder: The name of the folder of these files.

    Attributes:
        files: The content of each file to write, by its name in the folder.
    """

    def __init__(self, mode: ImageMode, folder: str = "") -> None:
        self.files: dict[str, bytes] = {}
        self._mode, self._folder = mode, folder
        self._limits = LIMITS[mode]
        self._n_questions = self._n_left_out = self._n_images = self._n_bytes = 0
        self._unread: Counter[str] = Counter()

    @property
    def policy(self) -> str:
        """Return the sources of images that the page must allow; empty if it has no image."""
        if not self._n_bytes:
            return ""
        return "data:" if self._mode == "embed" else "'self'"

    def remarks(self) -> list[str]:
        """Return how many images there are and what was left out, in words; nothing if no note names an image."""
        found = [f"{counted(self._n_images, 'image')} of notes"] if self._n_questions else []
        found += [f"{counted(n, 'image')} not shown: {why}" for why, n in sorted(self._unread.items())]
        if self._n_left_out:
            most = f"{counted(self._limits.questions, 'question')} or {self._limits.n_bytes >> 20} MB"
            all_questions = self._n_questions + self._n_left_out
            found.append(
                f"the images of {self._n_left_out} of {all_questions} questions are left out: the report holds those "
                f"of at most {most}"
            )
        return found

    def add(self, shown: dict[int, list[dict[str, str]]], note_idxs: Iterable[int], thumbnails: NoteThumbnails) -> bool:
        """Add the images of a question's notes, if the limits allow it.

        Args:
            shown: The images of the block that the question is in, by note.
            note_idxs: The notes of the question.
            thumbnails: Of these notes.

        Returns:
            Whether they were added.
        """
        named = thumbnails.counts(set(note_idxs) - shown.keys())
        new = [note_idx for note_idx, n in named.items() if n]
        if not new:
            return True
        is_full = self._n_left_out > 0 or self._n_questions == self._limits.questions
        made = {} if is_full else {note_idx: thumbnails.of_note(note_idx) for note_idx in new}
        n_bytes = sum(len(each.content) for of_note in made.values() for each in of_note)
        if is_full or self._n_bytes + n_bytes > self._limits.n_bytes:
            self._n_left_out += 1
            return False
        self._n_questions += 1
        self._n_bytes += n_bytes
        for note_idx, of_note in made.items():
            self._unread.update(each.why for each in of_note if each.why)
            self._n_images += sum(not each.why for each in of_note)
            shown[note_idx] = [self._as_json(each) for each in of_note]
        return True

    def _as_json(self, thumbnail: Thumbnail) -> dict[str, str]:
        content, why = thumbnail
        if why:
            return {"why": why}
        if self._mode == "embed":
            return {"src": f"data:{MEDIA_TYPE};base64,{base64.b64encode(content).decode()}"}
        name = f"{hashlib.sha256(content).hexdigest()[:20]}.webp"
        self.files[name] = content
        return {"src": f"{quote(os.fsencode(self._folder), safe='')}/{name}"}


def images_sent(manifests: Iterable[Manifest]) -> int:
    """Return the most images of a note that one of these runs sent with its text."""
    given = [manifest.config.get("note_images") for manifest in manifests]
    return max((min(n, MOST_PER_NOTE) for n in given if isinstance(n, int) and n > 0), default=0)


def open_thumbnails(
    dataset: Dataset | None, manifests: Iterable[Manifest], is_asked: bool
) -> tuple[NoteThumbnails | None, str]:
    """Open the images of the notes that some runs are about.

    Args:
        dataset: The data of the runs; None if it is not known.
        manifests: Of the runs. As many images of a note are shown as one of them sent.
        is_asked: Whether images are shown that no run sent.

    Returns:
        The images and "", or None and why there are none; "" if none are expected.
    """
    n = images_sent(manifests)
    if dataset is None or not (n or is_asked):
        return None, ""
    try:
        return NoteThumbnails(dataset, n or USUAL_PER_NOTE), ""
    except UsageError as error:
        return None, str(error)


def _as_webp(jpeg: bytes, quality: int) -> bytes:
    from PIL import Image

    with Image.open(BytesIO(jpeg)) as image:
        image.save(webp := BytesIO(), "WEBP", quality=quality)
    return webp.getvalue()


def with_counts(notes: Mapping[int, dict[str, Any]], thumbnails: NoteThumbnails | None) -> dict[int, dict[str, Any]]:
    """Return notes of a page, each with an empty entry for each of its images, which are asked for one by one."""
    counts = thumbnails.counts(notes) if thumbnails else {}
    return {
        note_idx: {**note, "images": [{}] * counts[note_idx]} if counts.get(note_idx) else note
        for note_idx, note in notes.items()
    }
