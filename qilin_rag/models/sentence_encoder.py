"""Text encoders of sentence-transformers: completed with settings that their files omit, with checks of the vectors."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import visible
from qilin_rag.models.batches import batches, run_batches
from qilin_rag.models.families import (
    Assumed,
    Pooling,
    architectures,
    assumed_last_token,
    assumed_pooling,
    is_late_interaction,
    sentence_transformers_config,
)
from qilin_rag.models.hf_compat import cpu_computes_bf16, route_of
from qilin_rag.models.pretrained import (
    check_all_loaded,
    json_object,
    longest_input,
    quiet_loading,
    why_not_loaded,
    within_gpu_memory,
)
from qilin_rag.models.tokens import longest_text, tokenize

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.model import BaseModel


logger = logging.getLogger(__name__)
Precision = Literal["fp32", "bf16"]
Similarity = Literal["cosine", "dot", "euclidean"]
Task = Literal["query", "document"]
Vectors = npt.NDArray[np.float32]
MAX_CHARS_PER_TOKEN = 64  # longer text is cut before tokenizing, which takes seconds for megabytes
TOKENS_CPU = 4096  # per batch: activations fit the CPU caches, and malloc keeps their memory
TOKENS_GPU = 65536
_STATIC_TEXTS = 1024  # per batch, for a model that looks vectors up


def load_encoder(
    folder: Path,
    name: str,
    device: str | None,
    pooling: Pooling | None,
    max_length: int | None,
    with_images: bool = False,
) -> SentenceTransformer:
    """Return the model of a folder in full precision.

    Without a given pooling or length, the model's own are used. If its files do not state the pooling, the assumed one
    is logged. A length in the model's files that exceeds its positions is lowered to these.

    Args:
        folder: The folder of the model.
        name: The name of the model, for errors.
        device: The torch device; None lets sentence-transformers choose.
        pooling: How token vectors are pooled.
        max_length: The most tokens of a text.
        with_images: Whether it reads images; by a chat template, if that is how the model reads them.

    Raises:
        UsageError: if the model can't be loaded or used with these settings.
    """
    if reads_pairs(folder):
        raise UsageError(f"model {name!r} is a cross-encoder: it reads two texts at once, and has no vector of one")
    messages: list[str] = []
    try:
        with quiet_loading() as messages:
            encoder = _load(folder, device, with_images).float()
    except Exception as error:  # unfit files make torch, transformers or tokenizers raise anything
        raise UsageError(f"model {name!r} can't be loaded: {why_not_loaded(error, messages)}") from error
    check_all_loaded(name, messages)
    complete_inputs(encoder, folder, name, max_length)
    _pool(encoder, pooling, assumed_pooling(folder, name), name)
    return encoder


def complete_inputs(encoder: BaseModel, folder: Path, name: str, max_length: int | None) -> None:
    """Limit the length of what a model reads, and complete its tokenizer."""
    for module in input_modules(encoder):
        _set_length(module, max_length, name)
        if type(module).__name__ == "Transformer" and module.tokenizer is not None:
            _complete_tokenizer(module.tokenizer, folder, name)


def routed(
    encoder: SentenceTransformer, task: Task, name: str, kind: Literal["text", "image"] = "text"
) -> SentenceTransformer:
    """Return the modules that encode texts (or images) of one task: those of its route if the model has routes.

    Raises:
        UsageError: if the model has routes, and none for this task.
    """
    from sentence_transformers import SentenceTransformer

    if (modules := route_modules(encoder, task, name, kind)) is None:
        return encoder
    with quiet_loading():
        return SentenceTransformer(modules=modules, device=str(encoder.device), truncate_dim=encoder.truncate_dim)


def route_modules(
    encoder: BaseModel, task: Task, name: str, kind: Literal["text", "image"] = "text"
) -> list[Any] | None:
    """Return the modules of a task; None if the model has no routes, so that all its modules encode both.

    Raises:
        UsageError: if the model has routes, and none for this task.
    """
    router = encoder[0]
    if type(router).__name__ != "Router":
        return None
    try:
        route = route_of(router, task, kind)
    except ValueError as error:
        routes = ", ".join(router.sub_modules)
        raise UsageError(f"model {name!r} has routes for {routes}, and none for {task}; name another model") from error
    return [*router.sub_modules[route], *list(encoder)[1:]]


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
    """Return the vectors of texts, shape (n_texts, dimension); equal texts have equal vectors.

    Args:
        encoder: The model.
        texts: The texts.
        prefix: The text before each of them.
        task: Whether the texts are queries or documents, which some models encode by different modules.
        normalize: Whether vectors get unit length.
        batch_size: The most texts of full length in a batch, or as many tokens of shorter ones.
        named: The names of the model and of the texts, for errors.
        precision: The precision of the computation.

    Raises:
        UsageError: if the vector of a text is not finite, or the memory of a GPU is too small.
    """
    encoder = routed(encoder, task, named[0])
    readable_texts = [readable(encoder, text) for text in texts]
    distinct = list(dict.fromkeys(readable_texts))
    n_texts = batch_size or max(1, TOKENS_GPU // (longest_text(encoder) or TOKENS_GPU))
    advice = f"batch_size (score_batch_size of a ranker) is {n_texts}, set a lower one"
    with quiet_loading(), within_gpu_memory(f"model {named[0]!r} on {encoder.device}: {advice}"):
        distinct_vectors = _encode_distinct(encoder.eval(), distinct, prefix, task, normalize, batch_size, precision)
    place = {text: i for i, text in enumerate(distinct)}
    vectors: Vectors = distinct_vectors[[place[text] for text in readable_texts]]
    check_finite(vectors, *named)
    return vectors


def check_finite(vectors: Vectors, model: str, names: Sequence[str]) -> None:
    """Raise a UsageError if a vector is not finite; it names the model and the first such text."""
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise not_finite(model, names[broken[0]], len(broken))


def not_finite(model: str, first: str, n_texts: int, what: str = "vectors") -> UsageError:
    """Return the error of a model that makes vectors (or weights) that are not finite of `n_texts`, `first` for one."""
    return UsageError(
        f"model {model!r} makes {what} that are not finite ({first}"
        + (f" and {n_texts - 1} more" if n_texts > 1 else "")
        + "); its weights are damaged, or it is not a text model"
    )


def has_native_bf16(device: Any) -> bool:
    """Return whether a torch device computes natively in bfloat16, which is then faster than fp32."""
    import torch

    if device.type == "cuda":  # torch.cuda.is_bf16_supported checks the current GPU, perhaps another one
        return bool(torch.version.hip) or bool(torch.cuda.get_device_properties(device).major >= 8)
    return device.type == "cpu" and cpu_computes_bf16()


def _encode_distinct(
    encoder: SentenceTransformer,
    texts: list[str],
    prefix: str,
    task: Task,
    normalize: bool,
    batch_size: int | None,
    precision: Precision,
) -> Vectors:
    """Return the vectors of distinct texts: tokenized once, and encoded in batches of similar length.

    The result is that of sentence-transformers' own `encode`, in another order.
    """
    on_cpu = encoder.device.type == "cpu"
    inputs = [as_text(encoder, text) for text in texts]
    if type(encoder[0]).__name__ != "Transformer" or not texts:  # static vectors have no lengths to order by
        plain: Vectors = encoder.encode(
            inputs,
            prompt=prefix,
            task=task,
            batch_size=batch_size or _STATIC_TEXTS,
            normalize_embeddings=normalize,
            show_progress_bar=False,
        )
        return plain
    tokenized = tokenize(encoder, inputs, prefix, task)
    budget = getattr(encoder[0].model, "batch_tokens", TOKENS_CPU) if on_cpu else TOKENS_GPU
    if batch_size is not None:
        budget = min(budget, batch_size * (longest_text(encoder) or int(tokenized.lengths.max())))

    def run(features: dict[str, Any]) -> Vectors:
        return embed(encoder, features, task, normalize, precision)

    made = batches(tokenized.lengths, budget)
    return run_batches(encoder, len(texts), made, tokenized.prepare, run, "encoding texts")


def embed(encoder: SentenceTransformer, features: Any, task: Task, normalize: bool, precision: Precision) -> Vectors:
    """Return the vectors of a batch that sentence-transformers has preprocessed, as its own `encode` makes them."""
    import torch
    from sentence_transformers.util import batch_to_device

    features = batch_to_device(features, encoder.device)
    with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=precision == "bf16"):
        whole = encoder(features, task=task)["sentence_embedding"].float()
        vectors = whole[:, : encoder.truncate_dim]  # None keeps all dimensions
        if normalize:
            vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
        made: Vectors = vectors.cpu().numpy()
    return made


def as_text(encoder: BaseModel, text: str) -> Any:
    """Return the text as an input that a model of several kinds of input takes for nothing else.

    sentence-transformers would read the file or fetch the address that a text names, if the model takes images, and
    processors would look for the image of a placeholder in a text.
    """
    if list(encoder.modalities) == ["text"]:
        return text
    processor = getattr(encoder[0], "processor", None)
    for kind in ("image_token", "video_token", "audio_token"):
        token = getattr(processor, kind, None)
        if isinstance(token, str) and len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return {"text": text}


def readable(encoder: BaseModel, text: str, n_tokens: int = 0) -> str:
    """Return the text as a reader sees it, cut far beyond the model's length; "" becomes a space, to have a token.

    Args:
        encoder: The model.
        text: The text.
        n_tokens: The most tokens of a text of this task, if that may be more than of others.
    """
    longest = longest_text(encoder)
    text = visible(text)
    return (text if longest is None else text[: max(longest, n_tokens) * MAX_CHARS_PER_TOKEN]) or " "


def dot(vectors: Vectors, others: Vectors) -> Vectors:
    """Return dot products row by row, summed in double precision, so that equal rows give equal results.

    The second argument holds one vector, or one per row.
    """
    products: Vectors = (vectors.astype(np.float64) * others.astype(np.float64)).sum(axis=1).astype(np.float32)
    return products


def similarity_of(folder: Path, name: str, normalize: bool | None) -> Similarity:
    """Return how vectors are compared: by cosine or dot product.

    Args:
        folder: The folder of the model.
        name: The name of the model, for errors.
        normalize: True selects cosine, False the dot product, None the similarity in the model's files.

    Raises:
        UsageError: if the files name a similarity that is not supported.
    """
    if normalize is not None:
        return "cosine" if normalize else "dot"
    declared = sentence_transformers_config(folder).get("similarity_fn_name") or "cosine"
    if declared not in get_args(Similarity):
        raise UsageError(
            f"model {name!r} compares its vectors by {declared!r}, which is not supported; "
            "set normalize to true (cosine) or false (dot product)"
        )
    return cast(Similarity, declared)


def reads_pairs(folder: Path) -> bool:
    """Return whether the model is a cross-encoder.

    Loaded as an encoder, it would give vectors for which it was never trained.
    """
    names = architectures(json_object(folder / "config.json"))
    is_classifier = any(name.endswith("ForSequenceClassification") for name in names)
    return is_classifier or sentence_transformers_config(folder).get("model_type") == "CrossEncoder"


def check_has_dense_vector(folder: Path, name: str) -> None:
    """Raise a UsageError if a model's files say that it gives a text another output than one dense vector.

    sentence-transformers would load it with a pooling for which it was never trained.
    """
    if is_late_interaction(folder):
        raise UsageError(
            f"model {name!r} is a late-interaction model, with a vector for each token; use it as retriever "
            "multivector, or as reranker"
        )
    if sentence_transformers_config(folder).get("model_type") == "SparseEncoder":
        raise UsageError(f"model {name!r} makes sparse vectors; use it as retriever sparse")


def _load(folder: Path, device: str | None, with_images: bool) -> SentenceTransformer:
    """Load the model as sentence-transformers does, except for folders with too little information."""
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
    needs_template = with_images and "image" in kinds
    if "text" in kinds and not needs_template and kinds.pop("message", None):  # the chat template of its base model
        encoder[0].input_formatter.supported_modalities = list(kinds)
    return encoder


def input_modules(encoder: BaseModel) -> list[Any]:
    """Return the modules that read text: one, or the first of each route."""
    first = encoder[0]
    return [route[0] for route in first.sub_modules.values()] if type(first).__name__ == "Router" else [first]


def _set_length(module: Any, max_length: int | None, name: str) -> None:
    """Limit a module to `max_length` tokens, or to its own limit, and in any case to its positions."""
    if type(module).__name__ == "Transformer":
        limit = longest_input(module.model)
        if max_length is not None and limit is not None and limit < max_length:
            raise UsageError(f"max_length {max_length}: model {name!r} reads {limit} tokens at most")
        length = max_length or module.max_seq_length
        module.max_seq_length = length if limit is None else min(length or limit, limit)
    elif max_length is not None and type(module).__name__ == "StaticEmbedding":
        module.tokenizer.enable_truncation(max_length)
    elif max_length is not None and type(module).__name__ == "SparseStaticEmbedding":
        module.tokenizer.model_max_length = module.max_seq_length = max_length
    elif max_length is not None:
        try:
            module.max_seq_length = max_length
        except AttributeError as error:
            raise UsageError(f"max_length {max_length}: model {name!r} has no such limit; leave it out") from error


def _complete_tokenizer(tokenizer: Any, folder: Path, name: str) -> None:
    """Set a padding token, which is masked, and the last token that the model's family requires."""
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
    """Set the given or assumed pooling, logging an assumed one; else keep the model's own."""
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
