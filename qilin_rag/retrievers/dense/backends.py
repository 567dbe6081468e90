"""Choose the precision of an exported encoder of notes by its measured cosine, and record it in the index."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.data import NoteStore
from qilin_rag.models.exported import Backend, ExportedPrecision
from qilin_rag.models.sentence_encoder import Vectors
from qilin_rag.retrievers.resumable import is_whole, kept_part

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)
ENCODING = "encoding.json"
LEAST_COSINE: dict[ExportedPrecision, float] = {"int8": 0.99, "fp32": 0.9999}
"""The least cosine with torch's vectors in fp32. In fp32, less shows that an export went wrong."""
_CHECKED_TEXTS = 32  # the first notes, whose vectors are compared; the next ones are typical texts for a quantizer


class NoteEncoding(NamedTuple):
    """The encoder of an index: what computed it, in which precision, and its least cosine with torch in fp32.

    Attributes:
        n_texts: The number of notes that were compared.
    """

    backend: Backend
    precision: ExportedPrecision
    least_cosine: float
    n_texts: int

    def told(self) -> str:
        """Return it in words."""
        return (
            f"{self.backend} in {self.precision}: cosine with torch in fp32 at least {self.least_cosine:.4f} "
            f"({self.n_texts} notes)"
        )


def check_backend(backend: str, precision: str, note_input: str, device: str | None, engine: str) -> None:
    """Raise a ValueError if a setting of the retriever does not go with its backend; it says what to do."""
    if backend == "torch":
        if precision == "int8":
            raise ValueError("precision int8 needs backend onnx or openvino; set one, or leave precision out")
    elif precision == "bf16":
        raise ValueError(f"precision bf16 needs backend torch; set that, or fp32 or int8 for backend {backend}")
    elif note_input != "text":
        raise ValueError(f"backend {backend} encodes text alone; set backend to torch, or note_input to text")
    elif device not in (None, "cpu") or engine != "local":
        place = f"device {device}" if device not in (None, "cpu") else f"engine {engine}"
        raise ValueError(f"{place} needs backend torch; backend {backend} encodes on the CPU of this machine")


def chosen_encoder(
    folder: Path,
    notes: NoteStore,
    backend: Backend,
    wanted: Literal["auto", "fp32", "int8"],
    model: str,
    load: Callable[[ExportedPrecision | None, Sequence[str]], SentenceTransformer],
    encode: Callable[[SentenceTransformer, Sequence[str]], Vectors],
) -> tuple[SentenceTransformer, NoteEncoding]:
    """Return an exported encoder whose vectors are close to those of torch, and write `encoding.json`.

    A build that resumes uses the precision that it began with.

    Args:
        folder: The folder of the build, with what an earlier one left.
        notes: The notes.
        backend: What computes.
        wanted: The precision; auto is int8 if that is close, else fp32.
        model: The name of the model, for errors.
        load: Returns the encoder in a precision (None: that of torch), by typical texts.
        encode: Returns an encoder's vectors of texts.

    Raises:
        UsageError: if the vectors in the precision that is wanted are not close.
    """
    some = [note.text for note in itertools.islice(notes, 2 * _CHECKED_TEXTS)]
    texts, typical = some[:_CHECKED_TEXTS], some[_CHECKED_TEXTS:] or some
    if is_whole(folder, ENCODING) and (kept := kept_encoding(folder)):
        return load(kept.precision, typical), kept
    full = encode(load(None, typical), texts)
    tries: tuple[ExportedPrecision, ...] = ("int8", "fp32") if wanted == "auto" else (wanted,)
    for precision in tries:
        encoder = load(precision, typical)
        encoding = NoteEncoding(backend, precision, least_cosine(full, encode(encoder, texts)), len(texts))
        if encoding.least_cosine >= LEAST_COSINE[precision]:
            content = f"{json.dumps(encoding._asdict() | {'bound': LEAST_COSINE[precision]}, indent=2)}\n"
            kept_part(folder, ENCODING, partial(write_text, text=content))
            return encoder, encoding
        found = (
            f"{backend} in {precision} makes other vectors than torch in fp32 of model {model!r}: "
            f"cosine {encoding.least_cosine:.4f}, under {LEAST_COSINE[precision]}"
        )
        if precision == tries[-1]:
            advice = "leave precision out" if precision == "int8" else "set backend to torch"
            raise UsageError(f"{found}; {advice}")
        logger.warning("%s; fp32 it is", found)
    raise AssertionError


def least_cosine(vectors: Vectors, others: Vectors) -> float:
    """Return the least cosine of two arrays of vectors, row by row, each of shape (n_texts, dimension)."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    return float(((vectors * others).sum(axis=1) / norms).min())


def kept_encoding(folder: Path) -> NoteEncoding | None:
    """Return the encoder of an index or of its build; None if it is not recorded, as for torch."""
    try:
        content = json.loads((folder / ENCODING).read_text(encoding="utf-8"))
        return NoteEncoding(
            *(content["backend"], content["precision"], float(content["least_cosine"]), int(content["n_texts"]))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
