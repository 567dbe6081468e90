"""Encode texts as sparse vectors: SPLADE, CSR and inference-free models of sentence-transformers, and BGE-M3's head."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import ranges
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import stage
from qilin_rag.models.batches import Rows, batches, each_batch
from qilin_rag.models.families import architectures, model_config, sentence_transformers_config
from qilin_rag.models.pretrained import check_all_loaded, quiet_loading, why_not_loaded, within_gpu_memory
from qilin_rag.models.sentence_encoder import (
    TOKENS_CPU,
    TOKENS_GPU,
    Task,
    as_text,
    complete_inputs,
    not_finite,
    readable,
    reads_pairs,
    route_modules,
)
from qilin_rag.models.tokens import longest_text, tokenize

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder
    from torch import Tensor

logger = logging.getLogger(__name__)
SparseKind = Literal["saved", "lexical", "masked-lm"]
_LEXICAL_HEADS = ("sparse_linear.safetensors", "sparse_linear.pt")
_NUMBERS_CPU, _NUMBERS_GPU = 1 << 25, 1 << 29  # of logits or weights in a batch: 128 MB and 2 GB
_STATIC_TEXTS = 1024  # per batch, for a model that looks weights up


class SparseVectors(NamedTuple):
    """Sparse vectors of texts; those of text i are at `indptr[i] : indptr[i + 1]`.

    Attributes:
        indptr: Shape (n_texts + 1,).
        terms: The numbers of the terms with a weight, rising within a text, shape (n_weights,).
        weights: Their weights, none of which is 0, shape (n_weights,).
        n_terms: The number of terms of the model: the dimension of a vector.
    """

    indptr: npt.NDArray[np.int64]
    terms: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    n_terms: int

    def take(self, texts: npt.NDArray[np.int64]) -> SparseVectors:
        """Return the vectors of these texts."""
        sizes = np.diff(self.indptr)[texts]
        at = ranges(self.indptr[:-1][texts], sizes)
        return SparseVectors(_starts(sizes), self.terms[at], self.weights[at], self.n_terms)


def sparse_kind(folder: Path, name: str) -> SparseKind:
    """Return how the model of a folder makes sparse vectors, by its JSON files and the names of the others.

    Raises:
        UsageError: if it makes none, or compares them in a way that a sum over terms can't give.
    """
    if reads_pairs(folder):
        raise UsageError(f"model {name!r} is a cross-encoder: it reads two texts at once, and has no vector of one")
    declared = sentence_transformers_config(folder)
    is_saved = (folder / "modules.json").is_file()
    if is_saved and declared.get("model_type") == "SparseEncoder":
        if (similarity := declared.get("similarity_fn_name") or "dot") not in ("dot", "cosine"):
            raise UsageError(f"model {name!r} compares vectors by {similarity!r}; name one that does by dot or cosine")
        return "saved"
    if _lexical_head(folder):
        return "lexical"
    if not is_saved and any(each.endswith("ForMaskedLM") for each in architectures(model_config(folder))):
        return "masked-lm"
    raise UsageError(
        f"model {name!r} makes no sparse vectors: its folder {folder} is neither a SparseEncoder of "
        "sentence-transformers, nor a masked language model (SPLADE), nor has it BGE-M3's sparse_linear.pt; name "
        "another model"
    )


def compares_by_cosine(folder: Path, name: str) -> bool:
    """Return whether the files of a sparse model say that its vectors are compared by cosine, else by dot product."""
    is_saved = sparse_kind(folder, name) == "saved"  # other files speak of dense vectors
    return is_saved and sentence_transformers_config(folder).get("similarity_fn_name") == "cosine"


def load_sparse_encoder(folder: Path, name: str, device: str | None, max_length: int | None) -> SparseEncoder:
    """Return the model of a folder in full precision.

    A masked language model without files of sentence-transformers is read as SPLADE with the largest weight of each
    term (Formal et al. 2021), as sentence-transformers does.

    Args:
        folder: The folder of the model.
        name: The name of the model, for errors.
        device: The torch device; None lets sentence-transformers choose.
        max_length: The most tokens of a text; None: the model's own.

    Raises:
        UsageError: if the model can't be loaded, or makes no sparse vectors.
    """
    kind = sparse_kind(folder, name)
    messages: list[str] = []
    try:
        with quiet_loading() as messages:
            load = _load_lexical if kind == "lexical" else _load_saved
            encoder = load(folder, name, device).float()
    except UsageError:
        raise
    except Exception as error:  # unfit files make torch, transformers or tokenizers raise anything
        raise UsageError(f"model {name!r} can't be loaded: {why_not_loaded(error, messages)}") from error
    check_all_loaded(name, messages)
    complete_inputs(encoder, folder, name, max_length)
    if kind == "masked-lm":
        logger.info("model %r is read as SPLADE: the largest log(1 + relu(logit)) of each term", name)
    return encoder


def encode_sparse(
    encoder: SparseEncoder,
    texts: Sequence[str],
    prefix: str,
    *,
    task: Task,
    cosine: bool,
    max_active_dims: int | None,
    batch_size: int | None,
    named: tuple[str, Sequence[str]],
) -> SparseVectors:
    """Return the sparse vectors of texts, those of `SparseEncoder.encode`; equal texts have equal vectors.

    Args:
        encoder: The model.
        texts: The texts.
        prefix: The text before each of them.
        task: Whether the texts are queries or documents, which some models encode by different modules.
        cosine: Whether vectors get unit length, so that their dot product is the cosine.
        max_active_dims: The most terms of a vector, those with the largest weights; None: as the model says.
        batch_size: The most texts of full length in a batch, or as many tokens of shorter ones.
        named: The names of the model and of the texts, for errors.

    Raises:
        UsageError: if a weight is not finite, or the memory of a GPU is too small.
    """
    encoder = _routed(encoder, task, named[0])
    readable_texts = [readable(encoder, text) for text in texts]
    places = {text: place for place, text in enumerate(dict.fromkeys(readable_texts))}
    most = max_active_dims or encoder.max_active_dims
    run = partial(_embed, encoder.eval(), task, cosine, most and min(most, _n_terms(encoder)))
    with quiet_loading(), within_gpu_memory(f"model {named[0]!r} on {encoder.device}: set a lower batch_size"):
        made, prepare = _batched(encoder, [as_text(encoder, text) for text in places], prefix, task, batch_size)
        done = []
        encoded = each_batch(encoder, made, prepare, run)
        with stage("encoding texts", len(places)) as advance, closing(encoded):
            for rows, vectors in encoded:
                done.append((rows, vectors))
                advance(len(rows))
    if not done:
        return SparseVectors(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 0)
    order = np.argsort(np.concatenate([rows for rows, _ in done]))
    distinct = joined([vectors for _, vectors in done])
    vectors = distinct.take(order[np.fromiter(map(places.__getitem__, readable_texts), np.int64, len(texts))])
    broken = np.flatnonzero(~np.isfinite(vectors.weights))
    if len(broken):
        of_texts = np.unique(np.searchsorted(vectors.indptr, broken, "right") - 1)
        raise not_finite(named[0], named[1][of_texts[0]], len(of_texts), "weights")
    return vectors


def joined(parts: Sequence[SparseVectors]) -> SparseVectors:
    """Return the vectors of several lists of texts, at least one, as those of one list."""
    return SparseVectors(
        _starts(np.concatenate([np.diff(part.indptr) for part in parts])),
        np.concatenate([part.terms for part in parts]),
        np.concatenate([part.weights for part in parts]),
        max(part.n_terms for part in parts),
    )


def _batched(
    encoder: SparseEncoder, inputs: list[Any], prefix: str, task: Task, batch_size: int | None
) -> tuple[Iterable[Rows], Callable[[Rows], dict[str, Any]]]:
    """Return the positions of texts in each batch, and a function that prepares one.

    A masked language model makes a number for each token and term, other models one for each text and term. Batches
    bound both.
    """
    on_cpu = encoder.device.type == "cpu"
    n_numbers = (_NUMBERS_CPU if on_cpu else _NUMBERS_GPU) // _n_terms(encoder)
    n_texts = max(1, min(n_numbers, _STATIC_TEXTS, batch_size or _STATIC_TEXTS))
    if type(encoder[0]).__name__ != "Transformer":

        def prepare(rows: Rows) -> dict[str, Any]:
            features = encoder.preprocess([inputs[row] for row in rows], prompt=prefix, task=task)
            return {name: value.long() for name, value in features.items()}  # texts without tokens give floats

        return _in_order(len(inputs), n_texts), prepare
    if not inputs:
        return [], dict
    tokenized = tokenize(encoder, inputs, prefix, task)
    budget = TOKENS_CPU if on_cpu else TOKENS_GPU
    if _is_masked_lm(encoder):
        budget = max(1, min(budget, n_numbers))
    if batch_size is not None:
        budget = min(budget, batch_size * (longest_text(encoder) or int(tokenized.lengths.max())))
    return batches(np.maximum(tokenized.lengths, -(-budget // n_texts)), budget), tokenized.prepare


def _is_masked_lm(encoder: SparseEncoder) -> bool:
    return bool(encoder[0].transformer_task == "fill-mask")


def _n_terms(encoder: SparseEncoder) -> int:
    """Return the number of terms of a model; SPLADE's pooling knows it only after its first batch."""
    if type(encoder[0]).__name__ == "Transformer" and _is_masked_lm(encoder):
        return int(encoder[0].model.config.get_text_config().vocab_size)
    return int(encoder.get_embedding_dimension() or 1)


def _in_order(n: int, n_texts: int) -> Iterator[Rows]:
    return (np.arange(start, min(start + n_texts, n)) for start in range(0, n, n_texts))


def _embed(
    encoder: SparseEncoder, task: Task, cosine: bool, max_active_dims: int | None, features: dict[str, Any]
) -> SparseVectors:
    """Return the vectors of a batch, as `SparseEncoder.encode` makes them."""
    import torch
    from sentence_transformers.util import batch_to_device, select_max_active_dims

    limit = {} if max_active_dims is None else {"max_active_dims": max_active_dims}
    with torch.inference_mode():
        whole: Tensor = encoder(batch_to_device(features, encoder.device), task=task, **limit)["sentence_embedding"]
        whole = select_max_active_dims(whole.float(), max_active_dims)
        if cosine:
            whole = torch.nn.functional.normalize(whole, p=2, dim=1)
        rows, terms = whole.nonzero(as_tuple=True)  # in the order of rows, then of terms
        sizes = torch.bincount(rows, minlength=len(whole)).cpu().numpy()
        weights = whole[rows, terms].cpu().numpy()
        return SparseVectors(_starts(sizes), terms.int().cpu().numpy(), weights, whole.shape[1])


def _starts(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _routed(encoder: SparseEncoder, task: Task, name: str) -> SparseEncoder:
    """Return the modules that encode texts of one task: those of its route if the model has routes."""
    from sentence_transformers import SparseEncoder

    if (modules := route_modules(encoder, task, name)) is None:
        return encoder
    with quiet_loading():
        return SparseEncoder(modules=modules, device=str(encoder.device), max_active_dims=encoder.max_active_dims)


def _load_saved(folder: Path, name: str, device: str | None) -> SparseEncoder:
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(folder), device=device, local_files_only=True)


def _load_lexical(folder: Path, name: str, device: str | None) -> SparseEncoder:
    """Load the transformer of BGE-M3 with its sparse head instead of its pooling."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer

    from qilin_rag.models.lexical_head import LexicalHead, read_linear

    transformer = Transformer.load(str(folder), local_files_only=True)
    config = transformer.model.config
    head = _lexical_head(folder)
    assert head is not None  # `sparse_kind` has found it
    linear = read_linear(head, config.hidden_size, name)
    lexical = LexicalHead(linear, config.vocab_size, transformer.tokenizer)
    return SparseEncoder(modules=[transformer, lexical], device=device)


def _lexical_head(folder: Path) -> Path | None:
    return next((path for file in _LEXICAL_HEADS if (path := folder / file).is_file()), None)
