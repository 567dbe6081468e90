"""Text encoders by sentence-transformers: loaded with what their files leave open, and made to give finite vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from qilin_rag.errors import UsageError
from qilin_rag.pretrained import check_all_loaded, quiet_loading
from qilin_rag.retrievers.prefixes import sentence_transformers_config

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Pooling = Literal["mean", "cls", "max", "lasttoken"]
Vectors = npt.NDArray[np.float32]

MAX_CHARS_PER_TOKEN = 64  # what lies beyond is cut before tokenizing, which takes seconds for megabytes


def load_encoder(
    folder: Path, name: str, device: str | None, pooling: Pooling | None, max_length: int | None
) -> SentenceTransformer:
    """The model of a folder in full precision; pooling and length that are not given are its own.

    `name` is what a UsageError calls it.
    """
    from sentence_transformers import SentenceTransformer

    try:
        with quiet_loading() as messages:
            encoder = SentenceTransformer(str(folder), device=device, local_files_only=True).float()
    except Exception as error:  # whatever unfit files make torch, transformers or their tokenizers raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"model {name!r} can't be loaded: {reason}") from error
    check_all_loaded(name, messages)
    if pooling := pooling or default_pooling(folder):
        _set_pooling(encoder, pooling)
    if max_length is not None:
        limit = getattr(encoder[0].auto_model.config, "max_position_embeddings", None)
        if limit and limit < max_length:
            raise UsageError(f"max_length {max_length}: model {name!r} reads {limit} tokens at most")
        encoder.max_seq_length = max_length
    return encoder


def encode(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    prefix: str,
    *,
    normalize: bool,
    batch_size: int,
    named: tuple[str, Sequence[str]],
) -> Vectors:
    """Vectors of shape (n_texts, dimension).

    `named` are the model and the texts; a UsageError names the first text whose vector is not finite.
    """
    with quiet_loading():
        vectors: Vectors = encoder.encode(
            [readable(encoder, text) for text in texts],
            prompt=prefix,
            batch_size=batch_size,
            normalize_embeddings=normalize,
            show_progress_bar=False,
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        model, names = named
        raise UsageError(
            f"model {model!r} makes vectors that are not finite ({names[broken[0]]}"
            + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
            + "); its weights are damaged, or it is no model for text"
        )
    return vectors


def readable(encoder: SentenceTransformer, text: str) -> str:
    """The text without what lies far beyond what the model reads; "" may be no token at all, so it is a space."""
    return text[: int(encoder.max_seq_length or 512) * MAX_CHARS_PER_TOKEN] or " "


def dot(vectors: Vectors, others: Vectors) -> Vectors:
    """Dot products row by row, of one vector or as many, summed in double precision: equal rows give equal results."""
    products: Vectors = (vectors.astype(np.float64) * others.astype(np.float64)).sum(axis=1).astype(np.float32)
    return products


def default_pooling(folder: Path) -> Pooling | None:
    """None where the model's own files say how token vectors are pooled."""
    return None if (folder / "modules.json").is_file() else "mean"


def compares_by_dot(folder: Path) -> bool:
    """Whether the model's own files say that its vectors are compared by dot product, not by their cosine."""
    return sentence_transformers_config(folder).get("similarity_fn_name") == "dot"


def _set_pooling(encoder: SentenceTransformer, pooling: Pooling) -> None:
    for position, module in enumerate(encoder):
        if type(module).__name__ == "Pooling":
            dimension = encoder[0].auto_model.config.hidden_size
            encoder[position] = type(module)(dimension, pooling, include_prompt=module.include_prompt)
            return
    raise UsageError(f"pooling {pooling}: this model pools in its own way; leave the setting out")
