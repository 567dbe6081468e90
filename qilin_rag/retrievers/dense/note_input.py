"""Encode notes by their text, their images, or both, and refuse at once a model that takes no images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.models.picture_encoder import encode_pictures
from qilin_rag.models.pretrained import adapted_models, find_model
from qilin_rag.models.sentence_encoder import Precision, Vectors
from qilin_rag.retrievers.dense.shards import Encode, Halves

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Texts = Sequence[str]
Images = Sequence[Sequence[bytes]]
NoteInput = Literal["text", "image", "both"]
_OF_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def check_has_processor(folder: Path, name: str) -> None:
    """Raise a UsageError if no file of a model says how images are read; the model is not loaded for that."""
    bases = [base for _, other in adapted_models(folder) if (base := find_model(other))]
    if not any(next(place.rglob(file), None) for place in (folder, *bases) for file in _OF_PROCESSORS):
        raise UsageError(
            f"model {name!r} takes no images: it has no {' or '.join(_OF_PROCESSORS)}; name one that does (a CLIP, "
            "Qwen3-VL-Embedding), or set note_input to text"
        )


def to_halves(vectors: Vectors, model: str) -> Halves:
    """Return vectors in 16 bits.

    Args:
        vectors: Shape (n_notes, dimension).
        model: The name of the model, for errors.

    Raises:
        UsageError: if one does not fit.
    """
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UsageError(f"vectors of model {model!r} don't fit 16-bit floats; set normalize: true")
    return halves


def in_halves(encode: Callable[[Texts, Texts, Images], Vectors], model: str) -> Encode:
    """Return a function that makes 16-bit vectors of notes from their texts, names and images.

    Args:
        encode: Makes them in 32 bits.
        model: The name of the model, for errors.
    """

    def encode_halves(texts: Texts, names: Texts, images: Images) -> Halves:
        if not texts:
            return np.empty((0, 0), np.float16)
        return to_halves(encode(texts, names, images), model)

    return encode_halves


def encode_notes(
    encoder: SentenceTransformer,
    note_input: NoteInput,
    texts: Sequence[str],
    names: Sequence[str],
    images: Sequence[Sequence[bytes]],
    encode_texts: Callable[[Sequence[str], Sequence[str]], Vectors],
    *,
    model: str,
    prefix: str,
    normalize: bool,
    batch_size: int | None,
    precision: Precision,
) -> Vectors:
    """Return a vector for each note, shape (n_notes, dimension): of images, or of both if a note has any.

    Args:
        encoder: The model.
        note_input: image or both.
        texts: The text of each note.
        names: The name of each note, for errors.
        images: The images of each note; none encodes a note by its text.
        encode_texts: Returns the vectors of texts with names.
        model: The name of the model, for errors.
        prefix: The text before each text.
        normalize: Whether vectors get unit length.
        batch_size: The most images in a batch.
        precision: The precision of the computation.
    """
    pictured = [row for row, of_note in enumerate(images) if of_note]
    plain = [row for row, of_note in enumerate(images) if not of_note]
    parts: list[tuple[list[int], Vectors]] = []
    if pictured:
        vectors = encode_pictures(
            encoder,
            [images[row] for row in pictured],
            [texts[row] for row in pictured] if note_input == "both" else None,
            prefix,
            normalize=normalize,
            batch_size=batch_size,
            named=(model, [names[row] for row in pictured]),
            precision=precision,
        )
        parts.append((pictured, vectors))
    if plain:
        parts.append((plain, encode_texts([texts[row] for row in plain], [names[row] for row in plain])))
    whole = np.empty((len(texts), parts[0][1].shape[1]), np.float32)
    for rows, vectors in parts:
        whole[rows] = vectors
    return whole
