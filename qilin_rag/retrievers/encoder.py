"""Text encoders by sentence-transformers: loaded with what their files leave open, and made to give finite vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from qilin_rag.errors import UsageError
from qilin_rag.pretrained import check_all_loaded, quiet_loading, within_gpu_memory
from qilin_rag.progress import stage
from qilin_rag.retrievers.prefixes import sentence_transformers_config

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Pooling = Literal["mean", "cls", "max", "lasttoken"]
Precision = Literal["fp32", "bf16"]
Vectors = npt.NDArray[np.float32]

MAX_CHARS_PER_TOKEN = 64  # what lies beyond is cut before tokenizing, which takes seconds for megabytes
_TOKENS_CPU = 4096  # of a batch: its activations stay in the caches, and malloc keeps their memory
_TOKENS_GPU = 65536


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
    if _reads_pairs(folder):
        raise UsageError(f"model {name!r} is a cross-encoder: it reads two texts at once, and has no vector of one")
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
    batch_size: int | None,
    named: tuple[str, Sequence[str]],
    precision: Precision = "fp32",
) -> Vectors:
    """Vectors of shape (n_texts, dimension); the same text has the same one.

    A batch holds `batch_size` texts of full length at most, or as many tokens of shorter ones. `named` are the model
    and the texts; a UsageError names the first text whose vector is not finite, and what to do where the memory of a
    GPU is not enough.
    """
    read = [readable(encoder, text) for text in texts]
    distinct = list(dict.fromkeys(read))
    n_texts = batch_size or max(1, _TOKENS_GPU // int(encoder.max_seq_length or _TOKENS_GPU))
    advice = f"batch_size (score_batch_size of a ranker) is {n_texts}, set a lower one"
    with quiet_loading(), within_gpu_memory(f"model {named[0]!r} on {encoder.device}: {advice}"):
        some = _encode_distinct(encoder.eval(), distinct, prefix, normalize, batch_size, precision)
    place = {text: i for i, text in enumerate(distinct)}
    vectors: Vectors = some[[place[text] for text in read]]
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        model, names = named
        raise UsageError(
            f"model {model!r} makes vectors that are not finite ({names[broken[0]]}"
            + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
            + "); its weights are damaged, or it is no model for text"
        )
    return vectors


def has_native_bf16(device: Any) -> bool:
    """Whether a torch device computes in bfloat16 itself, where it is faster than in fp32."""
    import torch

    if device.type == "cuda":  # torch.cuda.is_bf16_supported asks the current GPU, which may be another
        return bool(torch.version.hip) or bool(torch.cuda.get_device_properties(device).major >= 8)
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def batches(lengths: npt.NDArray[np.int64], budget: int) -> Iterator[npt.NDArray[np.int64]]:
    """Places of texts, longest first, by their lengths in tokens, no more than `budget` tokens at a time.

    Where texts of one length fill half a batch, it holds no other: it needs neither padding nor a mask.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        some = order[start : start + max(1, budget // longest)]
        n_alike = int((lengths[some] == longest).sum())
        if 2 * n_alike * longest >= budget:
            some = some[:n_alike]
        yield some
        start += len(some)


def _encode_distinct(
    encoder: SentenceTransformer,
    texts: list[str],
    prefix: str,
    normalize: bool,
    batch_size: int | None,
    precision: Precision,
) -> Vectors:
    """Tokenized once, encoded in batches of like length; on a CPU each core has batches of its own.

    What sentence-transformers' own `encode` makes, in another order. Small batches stay in the caches of a CPU, and one
    thread a batch makes the vectors the same for any number of cores.
    """
    import torch

    on_cpu = encoder.device.type == "cpu"
    if type(encoder[0]).__name__ != "Transformer" or not texts:  # static vectors: there is nothing to order
        plain: Vectors = encoder.encode(texts, prompt=prefix, normalize_embeddings=normalize, show_progress_bar=False)
        return plain
    unpadded = {"text": {"padding": False}, "common": {"return_tensors": None}}
    features = encoder.preprocess(texts, prompt=prefix, processing_kwargs=unpadded)
    columns = {name: values for name, values in features.items() if isinstance(values, list)}
    common = {name: value for name, value in features.items() if name not in columns}
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    budget = _TOKENS_CPU if on_cpu else _TOKENS_GPU
    if batch_size is not None:
        budget = min(budget, batch_size * int(encoder.max_seq_length or lengths.max()))
    n_threads = torch.get_num_threads()

    def run(rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Vectors]:
        padded = encoder.tokenizer.pad(
            {name: [values[i] for i in rows] for name, values in columns.items()}, return_tensors="pt"
        ).to(encoder.device)
        with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=precision == "bf16"):
            whole = encoder({**common, **padded})["sentence_embedding"].float()
            vectors = whole[:, : encoder.truncate_dim]  # None: all of it
            if normalize:
                vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
            return rows, vectors.cpu().numpy()

    found = np.empty((len(texts), 0), np.float32)
    try:
        n_workers = n_threads if on_cpu else 1
        with (
            stage("encoding texts", len(texts)) as advance,
            ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            for rows, vectors in pool.map(run, batches(lengths, budget)):
                if not found.size:
                    found = np.empty((len(texts), vectors.shape[1]), np.float32)
                found[rows] = vectors
                advance(len(rows))
    finally:
        torch.set_num_threads(n_threads)  # of threads to come: the pool's have changed it
    return found


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


def _reads_pairs(folder: Path) -> bool:
    """Loaded as an encoder it would give vectors all the same, for which it was never trained."""
    config = folder / "config.json"
    architectures = json.loads(config.read_text("utf-8")).get("architectures") if config.is_file() else None
    is_classifier = any(name.endswith("ForSequenceClassification") for name in architectures or [])
    return is_classifier or sentence_transformers_config(folder).get("model_type") == "CrossEncoder"


def _set_pooling(encoder: SentenceTransformer, pooling: Pooling) -> None:
    for position, module in enumerate(encoder):
        if type(module).__name__ == "Pooling":
            dimension = encoder[0].auto_model.config.hidden_size
            encoder[position] = type(module)(dimension, pooling, include_prompt=module.include_prompt)
            return
    raise UsageError(f"pooling {pooling}: this model pools in its own way; leave the setting out")
