"""The images of notes that go into prompts: whether a run can send them, what they are, and what they take.

An image is read when the turn of its question comes, in a thread, and let go with the request. Its bytes are kept
nowhere: samples record the hash of what was sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.types import Image, RenderedPrompt, Sample, SentNoteImage
from qilin_rag.data import Dataset, NoteStore
from qilin_rag.data.image_files import IMAGE_PATH
from qilin_rag.data.note_images import THREADS, NoteImages, image_names
from qilin_rag.llms import LLM
from qilin_rag.llms.image_tokens import most_tokens, tokens_of
from qilin_rag.llms.serving.server import engine_of
from qilin_rag.prompts.answer import Pictures
from qilin_rag.retrievers.none import NoRetriever

_NAME = "note_images (--note-images)"
_MOST_LOOKED_FOR = 1_000
_MOST_COMPARED = 8


def sends_images(config: RunConfig) -> bool:
    """Return whether a run sends images: without notes there are none."""
    return config.note_images > 0 and not isinstance(config.retriever, NoRetriever)


def check_reader(config: RunConfig) -> None:
    """Raise a UsageError if the LLM can't be sent the images that the configuration asks for."""
    llm: LLM = config.llm
    if not sends_images(config):
        return
    if not llm.sends_images:
        hint = " (if it does read images: --set llm.images=true)" if llm.takes_images else ""
        raise UsageError(
            f"{_NAME} {config.note_images}: llm {config.llm_label} reads no images; name one that does as llm (--llm), "
            f"or ask it with --note-images 0{hint}"
        )
    if config.serve and (lacking := engine_of(llm, config.llm_label).lacks_for_images):
        raise UsageError(
            f"{_NAME} {config.note_images}: llm {config.llm_label} needs llm.engine.{lacking} to read images; name "
            f"the file with --set llm.engine.{lacking}=FILE, or ask it with --note-images 0"
        )


def open_images(config: RunConfig, dataset: Dataset) -> NoteImages | None:
    """Open the images of the notes; None if the run sends none.

    Raises:
        UsageError: if the data has no images, or Pillow is not installed.
    """
    if not sends_images(config):
        return None
    notes, folder = dataset.notes, dataset.notes.images
    if IMAGE_PATH not in notes.columns or folder is None:
        raise UsageError(
            f"{_NAME}: the notes of data {dataset.label!r} have no column {IMAGE_PATH}; name data with images "
            "(--data), or leave out --note-images"
        )
    require("images", "PIL", what=_NAME)
    images = NoteImages(notes, config.image_size)
    _check_images_exist(images, notes, folder)
    return images


def _check_images_exist(images: NoteImages, notes: NoteStore, folder: Path) -> None:
    """Raise a UsageError if none of many images that the table names is there."""
    chosen = notes.note_idxs[:: max(1, len(notes) // _MOST_LOOKED_FOR)].tolist()
    named = [name for names in image_names(notes, chosen, 1).values() for name in names if name is not None]
    if not named:
        raise UsageError(f"{_NAME}: no note of the data names an image in {IMAGE_PATH}; leave out --note-images")
    for name in named:
        _, left_out = images.read_all([name])
        if set(left_out) != {"missing"}:
            return
    raise UsageError(
        f"{_NAME}: the images of the notes are missing; looked for {len(named):,} of them, such as "
        f"{folder / named[0]}; put them there, unpacked or as the archives part_N.tar.gz, or leave out --note-images"
    )


class PicturesRead(NamedTuple):
    """The images of notes, and the number of images that could not be read by reason, by note_idx."""

    pictures: Mapping[int, Pictures] = {}
    left_out: Mapping[int, Counter[str]] = {}

    def sent_with(self, prompt: RenderedPrompt) -> dict[str, Any]:
        """Return the fields of a sample that say which images of the notes in a prompt were sent."""
        if not prompt.images and not self.left_out:
            return {"images": [], "images_left_out": {}}
        left_out: Counter[str] = Counter()
        for note in prompt.notes:
            left_out.update(self.left_out.get(note.note_idx, {}))
        return {"images": _sent(prompt.images, prompt.image_notes), "images_left_out": dict(sorted(left_out.items()))}


class PictureReader:
    """Reads the images of the notes of questions."""

    def __init__(self, images: NoteImages | None, config: RunConfig) -> None:
        """Set the images; None reads none."""
        self._images, self._n, self._rule = images, config.note_images, config.llm.image_rule
        self._reading = asyncio.Semaphore(THREADS)

    async def read(self, note_idxs: Sequence[int]) -> PicturesRead:
        """Read the images of these notes in a thread; few questions at once, so that memory is bounded."""
        if self._images is None or not note_idxs:
            return PicturesRead()
        async with self._reading:
            return await asyncio.to_thread(self._read, self._images, note_idxs)

    def _read(self, images: NoteImages, note_idxs: Sequence[int]) -> PicturesRead:
        found = images.of_notes(note_idxs, self._n)
        pictures = {
            note_idx: Pictures(of_note, sum(tokens_of(self._rule, image) for image in of_note))
            for note_idx, (of_note, _) in found.items()
        }
        return PicturesRead(pictures, {note_idx: left_out for note_idx, (_, left_out) in found.items()})


def foresee_pictures(config: RunConfig, notes: NoteStore, note_idxs: Iterable[int]) -> dict[int, tuple[int, Pictures]]:
    """Return how many images notes may have and the most tokens that these take, by note_idx; no image is read."""
    wanted = sorted(set(note_idxs))
    if not sends_images(config) or not wanted:
        return {}
    each = most_tokens(config.llm.image_rule, config.image_size)
    names = image_names(notes, wanted, config.note_images)
    return {
        note_idx: (len(of_note), Pictures(n_tokens=each * len(of_note)))
        for note_idx, of_note in names.items()
        if of_note
    }


def check_unchanged(images: NoteImages | None, n: int, finished: Sequence[Sample]) -> None:
    """Raise a UsageError if images that were sent with some of these answers are not the same any more."""
    if images is None:
        return
    pictured = [sample for sample in finished if sample.images or sample.images_left_out]
    for sample in pictured[:: 1 + len(pictured) // _MOST_COMPARED]:
        found = images.of_notes(sample.known_prompt_notes or [], n)
        now = [sent for note_idx, (of_note, _) in found.items() for sent in _sent(of_note, [note_idx] * len(of_note))]
        if changed := {sent.path for sent in set(now) ^ set(sample.images)}:
            raise UsageError(
                f"the image {min(changed)} has changed since question {sample.question_id} was answered, and the other "
                "questions would be asked with other images; --fresh asks all of them again"
            )


def _sent(images: Sequence[Image], note_idxs: Sequence[int]) -> list[SentNoteImage]:
    return [
        SentNoteImage(note_idx=note_idx, path=image.path, sha256=image.sha256)
        for image, note_idx in zip(images, note_idxs, strict=True)
    ]
