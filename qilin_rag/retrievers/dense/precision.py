"""Choose bf16 to encode notes if its vectors are close to those of fp32."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.data import NoteStore
from qilin_rag.models.sentence_encoder import Precision, Vectors
from qilin_rag.retrievers.dense.pictures import NotePictures

logger = logging.getLogger(__name__)
LEAST_COSINE = 0.999
_CHECKED_TEXTS = 32  # texts that are encoded in bf16 and in fp32 to compare


def closest_precision(
    encode: Callable[[Sequence[str], Sequence[str], Sequence[Sequence[bytes]], Precision], Vectors],
    notes: NoteStore,
    pictures: NotePictures | None,
    images_alone: bool,
    model: str,
    must_be_bf16: bool,
) -> Precision:
    """Return bf16 if it makes nearly the same vectors of the first notes as fp32, else fp32.

    Args:
        encode: Returns vectors of notes by texts, names, images and precision.
        notes: The notes.
        pictures: Their images; None if texts alone are encoded.
        images_alone: Whether notes are encoded by their images alone.
        model: The name of the model, for errors.
        must_be_bf16: Whether fp32 is no choice.

    Raises:
        UsageError: if it must be bf16, and makes other vectors.
    """
    some = list(itertools.islice(notes, _CHECKED_TEXTS))
    images = pictures.read([note.note_idx for note in some]).images if pictures else []
    if images_alone:
        some, images = [note for note, its in zip(some, images, strict=True) if its], [its for its in images if its]
    if not some:
        return "fp32"
    texts = [note.text for note in some]
    full, half = (encode(texts, texts, images, precision) for precision in ("fp32", "bf16"))
    norms = np.linalg.norm(full, axis=1) * np.linalg.norm(half, axis=1)
    least = float(((full * half).sum(axis=1) / norms).min())
    if least >= LEAST_COSINE:
        return "bf16"
    found = f"bf16 makes other vectors than fp32 of model {model!r}: cosine {least:.4f}, under {LEAST_COSINE}"
    if must_be_bf16:
        raise UsageError(f"{found}; leave the setting precision out")
    logger.info("%s; fp32 it is", found)
    return "fp32"
