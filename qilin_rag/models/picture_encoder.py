"""Encode images, alone or with a text, by models of sentence-transformers that take both."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.models.batches import run_batches
from qilin_rag.models.pretrained import quiet_loading, why_not_loaded, within_gpu_memory
from qilin_rag.models.sentence_encoder import (
    Precision,
    Vectors,
    as_text,
    check_finite,
    embed,
    encode,
    readable,
    routed,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_IMAGES_CPU = 8  # per batch
_IMAGES_GPU = 32
_PROBE_SIDE = 64  # pixels


def encode_pictures(
    encoder: SentenceTransformer,
    pictures: Sequence[Sequence[bytes]],
    texts: Sequence[str] | None,
    prefix: str,
    *,
    normalize: bool,
    batch_size: int | None,
    named: tuple[str, Sequence[str]],
    precision: Precision = "fp32",
) -> Vectors:
    """Return a vector for each item's images, or for its images and its text, shape (n_items, dimension).

    A model that reads messages (Qwen3-VL-Embedding and other vision-language models) reads the images of an item and
    then its text as one input. Any other model (CLIP and its relatives) reads each alone: the vector is the mean of
    those of the images, and with a text the mean of that and the text's (score fusion, CLIP_SF of UniIR, Wei et al.
    2023, https://arxiv.org/abs/2311.17136).

    Args:
        encoder: The model.
        pictures: The images of each item, at least one, as files that Pillow reads.
        texts: The text of each item; None encodes the images alone.
        prefix: The text before each text, for a model that reads messages the system's message.
        normalize: Whether vectors get unit length, also those that a mean is made of.
        batch_size: The most images in a batch.
        named: The names of the model and of the items, for errors.
        precision: The precision of the computation.

    Raises:
        UsageError: if the model can't read an image, a vector is not finite, or the memory of a GPU is too small.
    """
    reader = routed(encoder, "document", named[0], "image").eval()
    by_message = "message" in reader.modalities
    if by_message:
        items: list[tuple[int, Sequence[bytes]]] = list(enumerate(pictures))
    else:
        items = [(row, [image]) for row, images in enumerate(pictures) for image in images]
    joint = texts if by_message else None
    owners = np.array([row for row, _ in items], np.int64)
    n_images = batch_size or (_IMAGES_CPU if reader.device.type == "cpu" else _IMAGES_GPU)
    n_items = max(1, n_images // max((len(images) for _, images in items), default=1))
    at_most = f"batch_size is {n_images}, set a lower one, or a lower image_size"
    # Tokenizers of transformers are used by one thread at a time; a model of images alone has none to use.
    reading = threading.Lock() if by_message else None

    def prepare(rows: npt.NDArray[np.int64]) -> Any:
        inputs = [
            _input(reader, images, None if joint is None else joint[row])
            for row, images in map(items.__getitem__, rows)
        ]
        try:
            if reading is None:
                return reader.preprocess(inputs, prompt=prefix, task="document")
            with reading:
                return reader.preprocess(inputs, prompt=prefix, task="document")
        except Exception as error:  # processors raise anything
            model, names = named
            raise UsageError(
                f"model {model!r} can't read the images of {names[items[rows[0]][0]]}, or of another of its batch: "
                f"{why_not_loaded(error, [])}; lower image_size or images, or raise max_length"
            ) from error

    def run(features: Any) -> Vectors:
        return embed(reader, features, "document", normalize, precision)

    with quiet_loading(), within_gpu_memory(f"model {named[0]!r} on {reader.device}: {at_most}"):
        found = run_batches(reader, len(items), _batches(owners, joint, n_items), prepare, run, "encoding images")
    check_finite(found, named[0], [named[1][row] for row in owners.tolist()])
    parts = [found if by_message else _means(found, owners, len(pictures), normalize)]
    if texts is not None and joint is None:
        given = {"task": "document", "normalize": normalize, "batch_size": batch_size, "named": named}
        parts.append(encode(encoder, texts, prefix, precision=precision, **given))  # type: ignore[arg-type]
    return parts[0] if len(parts) == 1 else _unit(np.mean(parts, axis=0, dtype=np.float32), normalize)


def check_takes_images(encoder: SentenceTransformer, name: str, with_text: bool) -> None:
    """Check that a model encodes an image (with a text, if so asked), by encoding a white one.

    Raises:
        UsageError: if the model takes no images, or can't read this one.
    """
    from PIL import Image

    if "image" not in encoder.modalities:
        raise UsageError(
            f"model {name!r} takes no images; name one that does (a CLIP, Qwen3-VL-Embedding), "
            "or set note_input to text"
        )
    if "text" not in encoder.modalities:
        raise UsageError(
            f"model {name!r} takes images and no text, but questions are text; name a model that takes both"
        )
    Image.new("RGB", (_PROBE_SIDE, _PROBE_SIDE), "white").save(white := BytesIO(), "JPEG")
    try:
        encode_pictures(
            encoder,
            [[white.getvalue()]],
            ["a"] if with_text else None,
            "",
            normalize=True,
            batch_size=None,
            named=(name, ["a white image"]),
        )
    except UsageError:
        raise
    except Exception as error:  # torch and transformers raise anything
        raise UsageError(f"model {name!r} can't encode images: {why_not_loaded(error, [])}") from error


def _input(encoder: SentenceTransformer, images: Sequence[bytes], text: str | None) -> dict[str, Any]:
    """Return the images, decoded, and the text after them, as Qwen's embedders are given both."""
    from PIL import Image

    opened = [Image.open(BytesIO(image)).convert("RGB") for image in images]
    item: dict[str, Any] = {"image": opened[0] if len(opened) == 1 else opened}
    return item if text is None else item | as_text(encoder, readable(encoder, text))


def _batches(owners: npt.NDArray[np.int64], texts: Sequence[str] | None, n: int) -> list[npt.NDArray[np.int64]]:
    """Return positions of items in batches, those with the longest texts first, so that texts of a batch are alike."""
    lengths = np.array([0 if texts is None else len(texts[row]) for row in owners.tolist()], np.int64)
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + n] for start in range(0, len(order), n)]


def _means(vectors: Vectors, owners: npt.NDArray[np.int64], n: int, normalize: bool) -> Vectors:
    """Return the mean of the vectors of each owner; the vector itself if it has one."""
    if len(owners) == n:
        return vectors
    sums = np.zeros((n, vectors.shape[1]), np.float32)
    np.add.at(sums, owners, vectors)
    return _unit((sums / np.bincount(owners, minlength=n)[:, None]).astype(np.float32), normalize)


def _unit(vectors: Vectors, normalize: bool) -> Vectors:
    if not normalize:
        return vectors
    made: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return made
