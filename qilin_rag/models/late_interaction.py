"""Late-interaction models (ColBERT): a vector for each token of a text, and the MaxSim of queries and texts.

Encoding and scoring are those of sentence-transformers' MultiVectorEncoder: markers, query expansion, the skip list and
the projection are in the model's files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted, visible
from qilin_rag.models.batches import Rows, batches, each_batch
from qilin_rag.models.families import is_late_interaction
from qilin_rag.models.pretrained import (
    check_all_loaded,
    json_object,
    longest_input,
    quiet_loading,
    why_not_loaded,
    within_gpu_memory,
)
from qilin_rag.models.sentence_encoder import (
    TOKENS_CPU,
    TOKENS_GPU,
    Task,
    as_text,
    input_modules,
    readable,
)
from qilin_rag.models.tokens import LONGEST_BELIEVED

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder

logger = logging.getLogger(__name__)
TokenVectors = npt.NDArray[np.float32]
"""(n_tokens, dimension)"""
_SCORED_AT_ONCE = 32_000_000  # numbers in memory while texts are scored, 128 MB
_ASSUMED_TOKENS, _ASSUMED_DIMENSION = 512, 128  # of a text if the model's files do not say


class TokenShape(NamedTuple):
    """The most tokens of a text that a model reads, and the dimension of their vectors, as its files say."""

    n_tokens: int
    dimension: int


def check_is_late_interaction(folder: Path, name: str) -> None:
    """Raise a UsageError if a model does not compare token vectors; sentence-transformers would add a random layer."""
    if not is_late_interaction(folder):
        raise UsageError(
            f"model {name!r} is no late-interaction model: its files name neither MultiVectorEncoder nor ColBERT; name "
            "one that is, or use this one as a biencoder or reranker"
        )


def token_shape(folder: Path, max_length: int | None = None) -> TokenShape:
    """Return the shape of a text's vectors at most, without loading the model.

    Args:
        folder: The folder of the model.
        max_length: The most tokens of a text, if that is set.
    """
    places = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    widths = [json_object(place / "config.json").get("out_features") for place in reversed(places)]  # the last layer
    hidden = json_object(folder / "config.json").get("hidden_size")
    metadata = json_object(folder / "artifact.metadata")
    dimension = next((width for width in (*widths, metadata.get("dim"), hidden) if isinstance(width, int)), None)
    files = ("sentence_bert_config.json", "config_sentence_transformers.json")
    lengths = [json_object(folder / file).get("document_length") for file in files]
    lengths += [metadata.get("doc_maxlen"), json_object(folder / "tokenizer_config.json").get("model_max_length")]
    known = (length for length in lengths if isinstance(length, int) and length <= LONGEST_BELIEVED)
    return TokenShape(max_length or next(known, _ASSUMED_TOKENS), dimension or _ASSUMED_DIMENSION)


def load_multi_vector(
    folder: Path, name: str, device: str | None, max_length: int | None, setting: str = "max_length"
) -> MultiVectorEncoder:
    """Return the late-interaction model of a folder in full precision.

    Args:
        folder: The folder of the model.
        name: The name of the model, for errors.
        device: The torch device; None lets sentence-transformers choose.
        max_length: The most tokens of a text (not of a query). None: as the model's files say.
        setting: The name of `max_length`, for errors.

    Raises:
        UsageError: if it is no late-interaction model, or can't be loaded or used with these settings.
    """
    check_is_late_interaction(folder, name)
    try:
        from sentence_transformers import MultiVectorEncoder
    except ImportError as error:
        raise UsageError(
            f"model {name!r} is a late-interaction model, which needs sentence-transformers 6: "
            "pip install -U 'sentence-transformers>=6'"
        ) from error
    messages: list[str] = []
    try:
        with quiet_loading() as messages:
            encoder = MultiVectorEncoder(str(folder), device=device, local_files_only=True).float().eval()
    except Exception as error:  # unfit files make torch, transformers or tokenizers raise anything
        raise UsageError(f"model {name!r} can't be loaded: {why_not_loaded(error, messages)}") from error
    check_all_loaded(name, messages)
    for module in input_modules(encoder):
        _set_lengths(module, max_length, name, setting)
    return encoder


def encode_tokens(
    encoder: MultiVectorEncoder,
    texts: Sequence[str],
    task: Task,
    *,
    prefix: str | None,
    batch_size: int | None,
    named: tuple[str, Sequence[str]],
) -> Iterator[tuple[Rows, list[torch.Tensor]]]:
    """Yield positions of texts with their token vectors, batch by batch, the longest texts first.

    Vectors are those of `MultiVectorEncoder.encode_query` and `encode_document`: fp32, shape (n_tokens, dimension), on
    the device of the model. A text without any token has no vector.

    Args:
        encoder: The model.
        texts: The texts; equal ones are encoded as often as they are given.
        task: Whether the texts are queries or documents.
        prefix: The text before each of them; None for the model's own.
        batch_size: The most texts of full length in a batch, or as many tokens of shorter ones.
        named: The names of the model and of the texts, for errors.

    Raises:
        UsageError: if a vector is not finite, or the memory of a GPU is too small.
    """
    import torch
    from sentence_transformers.util import batch_to_device

    prompt = _own_prefix(encoder, task) if prefix is None else prefix
    n_tokens = getattr(input_modules(encoder)[0], f"{task}_length", None) or 0
    plain = [visible(text) and readable(encoder, text, n_tokens) for text in texts]
    inputs = [as_text(encoder, text) for text in plain]
    with quiet_loading():
        lengths = _lengths(encoder, plain, task, prompt, named)
    budget = TOKENS_CPU if encoder.device.type == "cpu" else TOKENS_GPU
    if batch_size is not None:
        budget = min(budget, batch_size * int(lengths.max(initial=1)))
    one_at_a_time = threading.Lock()  # fast tokenizers can't be used by two threads at once

    def prepare(rows: Rows) -> Any:
        with one_at_a_time:
            return encoder.preprocess([inputs[row] for row in rows], prompt=prompt, task=task)

    def run(features: Any) -> list[torch.Tensor]:
        with torch.inference_mode():
            found = encoder(batch_to_device(features, encoder.device), task=task)
            scored = found["attention_mask"].bool()
            return [text[mask].float() for text, mask in zip(found["token_embeddings"], scored, strict=True)]

    if len(empty := np.flatnonzero(lengths == 0)):
        yield empty, [torch.zeros(0, encoder.get_embedding_dimension() or 0, device=encoder.device) for _ in empty]
    some = np.flatnonzero(lengths)
    advice = f"model {named[0]!r} on {encoder.device}: batch_size is {batch_size or 'not set'}, set a lower one"
    encoded = each_batch(encoder, (some[rows] for rows in batches(lengths[some], budget)), prepare, run)
    with quiet_loading(), within_gpu_memory(advice), closing(encoded):
        for rows, vectors in encoded:
            _check_finite(rows, vectors, named)
            yield rows, vectors


def max_sim(
    encoder: MultiVectorEncoder, queries: Sequence[torch.Tensor], texts: Sequence[torch.Tensor]
) -> npt.NDArray[np.float32]:
    """Return the score of each query with each text, shape (n_queries, n_texts), by `MultiVectorEncoder.similarity`.

    It is the sum over the tokens of a query of the largest product with a token of the text (Khattab and Zaharia 2020),
    or their mean if the model's files say so. A text without tokens scores -1e9.
    """
    import torch

    with torch.inference_mode():
        scores = encoder.similarity(list(queries), list(texts), chunk_elements=_SCORED_AT_ONCE)
        found: npt.NDArray[np.float32] = scores.cpu().numpy()
    return found


def _set_lengths(module: Any, max_length: int | None, name: str, setting: str) -> None:
    """Limit the tokens of texts to `max_length`, and those of queries and texts to the positions of the model."""
    if type(module).__name__ != "Transformer":
        if max_length is not None:
            raise UsageError(f"{setting} {max_length}: model {name!r} has no such limit; leave it out")
        return
    most = longest_input(module.model)
    if max_length is not None:
        if most is not None and most < max_length:
            raise UsageError(f"{setting} {max_length}: model {name!r} reads {most} tokens at most")
        module.document_length = max_length
    if most is not None:
        module.max_seq_length = min(module.max_seq_length or most, most)
        module.query_length = module.query_length and min(module.query_length, most)
        module.document_length = module.document_length and min(module.document_length, most)


def _own_prefix(encoder: MultiVectorEncoder, task: Task) -> str | None:
    """Return the prompt that `encode_query` and `encode_document` use."""
    names = ("query",) if task == "query" else ("document", "passage", "corpus")
    name = next((name for name in names if name in encoder.prompts), encoder.default_prompt_name)
    return encoder.prompts.get(name) if name else None


def _lengths(
    encoder: MultiVectorEncoder, texts: Sequence[str], task: Task, prompt: str | None, named: tuple[str, Sequence[str]]
) -> npt.NDArray[np.int64]:
    """Return the number of tokens that the model reads of each text; log how many queries are cut."""
    ids = encoder.tokenizer([(prompt or "") + text for text in texts])["input_ids"] if texts else []
    lengths = np.array([len(of_text) for of_text in ids], np.int64)
    first = input_modules(encoder)[0]
    expansion = getattr(first, "query_expansion", None) if task == "query" else None
    limit = getattr(first, f"{task}_length", None) or encoder.max_seq_length
    if expansion:
        limit = expansion["length"] if expansion["strategy"] == "fixed" else limit and max(limit, expansion["length"])
    if limit and task == "query" and (n_cut := int((lengths > limit).sum())):
        logger.warning("model %s reads %d tokens of a query; cut: %s", named[0], limit, counted(n_cut, "longer query"))
    lengths = np.minimum(lengths, min(limit, LONGEST_BELIEVED)) if limit else lengths
    return np.maximum(lengths, expansion["length"]) if expansion else lengths


def _check_finite(rows: Rows, vectors: Sequence[torch.Tensor], named: tuple[str, Sequence[str]]) -> None:
    import torch

    if not torch.isfinite(torch.cat(list(vectors))).all():
        broken = next(row for row, of_text in zip(rows, vectors, strict=True) if not torch.isfinite(of_text).all())
        raise UsageError(
            f"model {named[0]!r} makes vectors that are not finite ({named[1][broken]}); its weights are damaged"
        )
