"""Text encoders by sentence-transformers: loaded with what their files leave open, and made to give finite vectors."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import stage
from qilin_rag.core.text import visible
from qilin_rag.models.families import (
    Assumed,
    Pooling,
    assumed_last_token,
    assumed_pooling,
    sentence_transformers_config,
)
from qilin_rag.models.hf_compat import cpu_computes_bf16, route_of
from qilin_rag.models.pretrained import (
    check_all_loaded,
    longest_input,
    quiet_loading,
    why_not_loaded,
    within_gpu_memory,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


logger = logging.getLogger(__name__)
Precision = Literal["fp32", "bf16"]
Similarity = Literal["cosine", "dot", "euclidean"]
Task = Literal["query", "document"]
Vectors = npt.NDArray[np.float32]
MAX_CHARS_PER_TOKEN = 64  # what lies beyond is cut before tokenizing, which takes seconds for megabytes
_TOKENS_CPU = 4096  # of a batch: its activations stay in the caches, and malloc keeps their memory
_TOKENS_GPU = 65536
_STATIC_TEXTS = 1024  # at a time, of a model that looks vectors up
_LONGEST_BELIEVED = 1_000_000  # tokenizers that know no limit name one of 1e30


def load_encoder(
    folder: Path, name: str, device: str | None, pooling: Pooling | None, max_length: int | None
) -> SentenceTransformer:
    """Return the model of a folder in full precision.

    Pooling and length that are not given are the model's own. If its files don't say how token vectors are pooled,
    what is taken is logged. A length that the model's own files set beyond its positions is lowered to these.

    Raises: UsageError, which calls the model `name`, if it can't be loaded or used so.
    """
    if _reads_pairs(folder):
        raise UsageError(f"model {name!r} is a cross-encoder: it reads two texts at once, and has no vector of one")
    messages: list[str] = []
    try:
        with quiet_loading() as messages:
            encoder = _load(folder, device).float()
    except Exception as error:  # whatever unfit files make torch, transformers or their tokenizers raise
        raise UsageError(f"model {name!r} can't be loaded: {why_not_loaded(error, messages)}") from error
    check_all_loaded(name, messages)
    for module in _input_modules(encoder):
        _set_length(module, max_length, name)
        if type(module).__name__ == "Transformer" and module.tokenizer is not None:
            _complete_tokenizer(module.tokenizer, folder, name)
    _pool(encoder, pooling, assumed_pooling(folder, name), name)
    return encoder


def routed(encoder: SentenceTransformer, task: Task, name: str) -> SentenceTransformer:
    """Return the modules that texts of one task go through: of a model with routes those of its route, else all.

    Raises: UsageError, which calls the model `name`, if it has routes and none for this task.
    """
    from sentence_transformers import SentenceTransformer

    router = encoder[0]
    if type(router).__name__ != "Router":
        return encoder
    try:
        route = route_of(router, task)
    except ValueError as error:
        routes = ", ".join(router.sub_modules)
        raise UsageError(f"model {name!r} has routes for {routes}, and none for {task}; name another model") from error
    with quiet_loading():
        return SentenceTransformer(
            modules=[*router.sub_modules[route], *list(encoder)[1:]],
            device=str(encoder.device),
            truncate_dim=encoder.truncate_dim,
        )


def encode(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    prefix: str,
    *,
    task: Task,
    normalize: bool,
    batch_size: int | None,
    named: tuple[str, Sequence[str]],
    precision: Precision = "fp32",
) -> Vectors:
    """Vectors of shape (n_texts, dimension); the same text has the same one.

    `task` says whether the texts are queries or documents, which some models read by different modules. A batch holds
    `batch_size` texts of full length at most, or as many tokens of shorter ones. `named` are the model and the texts; a
    UsageError names the first text whose vector is not finite, and what to do where the memory of a GPU is not enough.
    """
    encoder = routed(encoder, task, named[0])
    read = [readable(encoder, text) for text in texts]
    distinct = list(dict.fromkeys(read))
    n_texts = batch_size or max(1, _TOKENS_GPU // (_longest(encoder) or _TOKENS_GPU))
    advice = f"batch_size (score_batch_size of a ranker) is {n_texts}, set a lower one"
    with quiet_loading(), within_gpu_memory(f"model {named[0]!r} on {encoder.device}: {advice}"):
        some = _encode_distinct(encoder.eval(), distinct, prefix, task, normalize, batch_size, precision)
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
    return device.type == "cpu" and cpu_computes_bf16()


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
    task: Task,
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
        plain: Vectors = encoder.encode(
            texts,
            prompt=prefix,
            task=task,
            batch_size=batch_size or _STATIC_TEXTS,
            normalize_embeddings=normalize,
            show_progress_bar=False,
        )
        return plain
    unpadded = {"text": {"padding": False}, "common": {"return_tensors": None}}
    features = encoder.preprocess(texts, prompt=prefix, task=task, processing_kwargs=unpadded)
    columns = {name: values for name, values in features.items() if isinstance(values, list)}
    common = {name: value for name, value in features.items() if name not in columns}
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    budget = _TOKENS_CPU if on_cpu else _TOKENS_GPU
    if batch_size is not None:
        budget = min(budget, batch_size * (_longest(encoder) or int(lengths.max())))
    n_threads = torch.get_num_threads()

    def run(rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Vectors]:
        padded = encoder.tokenizer.pad(
            {name: [values[i] for i in rows] for name, values in columns.items()},
            padding_side="right",  # so that a token has the same position in any batch
            return_tensors="pt",
        ).to(encoder.device)
        with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=precision == "bf16"):
            whole = encoder({**common, **padded}, task=task)["sentence_embedding"].float()
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
    """The text as a reader sees it, cut far beyond the model's length; "" may be no token at all: it is a space."""
    longest = _longest(encoder)
    text = visible(text)
    return (text if longest is None else text[: longest * MAX_CHARS_PER_TOKEN]) or " "


def dot(vectors: Vectors, others: Vectors) -> Vectors:
    """Dot products row by row, of one vector or as many, summed in double precision: equal rows give equal results."""
    products: Vectors = (vectors.astype(np.float64) * others.astype(np.float64)).sum(axis=1).astype(np.float32)
    return products


def similarity_of(folder: Path, name: str, normalize: bool | None) -> Similarity:
    """Return how vectors are compared: by cosine if `normalize`, by dot product if not, else as the model's files say.

    Raises: UsageError, if they name a similarity that is not searched here.
    """
    if normalize is not None:
        return "cosine" if normalize else "dot"
    declared = sentence_transformers_config(folder).get("similarity_fn_name") or "cosine"
    if declared not in get_args(Similarity):
        raise UsageError(
            f"model {name!r} compares its vectors by {declared!r}, which is not searched here; "
            "set normalize to true (cosine) or false (dot product)"
        )
    return cast(Similarity, declared)


def _reads_pairs(folder: Path) -> bool:
    """Loaded as an encoder it would give vectors all the same, for which it was never trained."""
    config = folder / "config.json"
    architectures = json.loads(config.read_text("utf-8")).get("architectures") if config.is_file() else None
    is_classifier = any(name.endswith("ForSequenceClassification") for name in architectures or [])
    return is_classifier or sentence_transformers_config(folder).get("model_type") == "CrossEncoder"


def _load(folder: Path, device: str | None) -> SentenceTransformer:
    """The model as sentence-transformers makes it, but for folders of which it knows too little."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    if (folder / "modules.json").is_file():
        return SentenceTransformer(str(folder), device=device, local_files_only=True)
    config = json.loads((folder / "config.json").read_text("utf-8")) if (folder / "config.json").is_file() else {}
    if config.get("model_type") == "model2vec":
        static = StaticEmbedding.load(str(folder), local_files_only=True)
        return SentenceTransformer(modules=[static, *([Normalize()] if config.get("normalize") else [])], device=device)
    encoder = SentenceTransformer(str(folder), device=device, local_files_only=True)
    kinds = encoder[0].modality_config
    if "text" in kinds and kinds.pop("message", None):  # the chat template of the model it was made from
        encoder[0].input_formatter.supported_modalities = list(kinds)
    return encoder


def _input_modules(encoder: SentenceTransformer) -> list[Any]:
    """Those that read text: one, or the first of each route."""
    first = encoder[0]
    return [route[0] for route in first.sub_modules.values()] if type(first).__name__ == "Router" else [first]


def _set_length(module: Any, max_length: int | None, name: str) -> None:
    """Have a module cut texts to `max_length` tokens, or to what it says itself, as far as it has positions."""
    if type(module).__name__ == "Transformer":
        limit = longest_input(module.model)
        if max_length is not None and limit is not None and limit < max_length:
            raise UsageError(f"max_length {max_length}: model {name!r} reads {limit} tokens at most")
        wanted = max_length or module.max_seq_length
        module.max_seq_length = wanted if limit is None else min(wanted or limit, limit)
    elif max_length is not None and type(module).__name__ == "StaticEmbedding":
        module.tokenizer.enable_truncation(max_length)
    elif max_length is not None:
        try:
            module.max_seq_length = max_length
        except AttributeError as error:
            raise UsageError(f"max_length {max_length}: model {name!r} has no such limit; leave it out") from error


def _longest(encoder: SentenceTransformer) -> int | None:
    """How many tokens a model reads; None if all."""
    longest = encoder.max_seq_length
    return int(longest) if longest and longest < _LONGEST_BELIEVED else None


def _complete_tokenizer(tokenizer: Any, folder: Path, name: str) -> None:
    """Give it a token to pad with, which is masked, and the last token that the model's family wants."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UsageError(
            f"model {name!r}: its tokenizer has no padding token; write one into {folder / 'tokenizer_config.json'} "
            "as pad_token"
        )
    token = assumed_last_token(folder, name)
    last = tokenizer.get_vocab().get(token) if token else None
    if last is not None and tokenizer("a")["input_ids"][-1:] != [last]:
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"$A {token}", special_tokens=[(token, last)]
        )


def _pool(encoder: SentenceTransformer, pooling: Pooling | None, assumed: Assumed | None, name: str) -> None:
    """Pool as was asked for, or as assumed, which is logged; else as the model does."""
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule

    modules = [module for module in encoder.modules() if isinstance(module, PoolingModule)]
    if pooling and not modules:
        raise UsageError(f"pooling {pooling}: this model pools in its own way; leave the setting out")
    if not pooling and assumed and modules:
        pooling = assumed.pooling
        logger.log(
            logging.INFO if assumed.is_documented else logging.WARNING,
            "model %r does not say how its token vectors are pooled: %s, %s (set pooling to one of %s)",
            name,
            pooling,
            assumed.reason,
            ", ".join(get_args(Pooling)),
        )
    for module in modules if pooling else []:
        module.pooling_mode, module.pooling_output_dimension = pooling, module.embedding_dimension
