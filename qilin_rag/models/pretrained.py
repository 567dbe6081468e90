"""Pretrained models by folder or hub name: located, downloaded, and identified by their content."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qilin_rag.core.downloads import refuse_download
from qilin_rag.core.errors import UsageError
from qilin_rag.core.file_hashes import file_sha256
from qilin_rag.core.files import expanded

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)
_WEIGHTS = {".safetensors", ".bin"}
_OTHER_FORMATS = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.gguf")
_POSITION_TABLES = {"position_embeddings", "wpe"}
_MARKS = ("config.json", "modules.json", "adapter_config.json")


# Error texts of libraries that can't load a model, and their meaning for a user.
_LIBRARY_WORDS = {
    r"\b(sentencepiece|tiktoken|protobuf)\b": r"its tokenizer needs the package \1; install that into this environment",
    r"\b(torchvision|pillow)\b": r"it reads images by the package \1, which is not installed here; install that",
    r"weights_only|CVE-2025-32434": (
        "its weights are pickled (.bin), which this torch does not read safely; choose a model with safetensors"
    ),
    r"safetensors?_?rust|SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeader": (
        "a file of its weights is damaged or incomplete (perhaps a Git LFS pointer); fetch the model again"
    ),
    r"does not recognize this architecture|Unrecognized (?:model|configuration)": (
        "its config.json names a kind of model that the installed transformers does not know"
    ),
}


_ADVICE = re.compile(
    r"please|pip install|make sure|you (?:can|should|need|may|must)|for (?:more )?details|from_pretrained|huggingface|"
    r"https?://|`[^`]*[=(]|\w=(?:True|False|None)|pass(?:ing)? ",
    re.IGNORECASE,
)


# Files that can't change a model's output. All other files count, even unknown ones.
_IRRELEVANT_FOLDERS = {".git", ".cache", ".huggingface", ".ipynb_checkpoints", "__pycache__", "onnx", "openvino"}


_IRRELEVANT_FILES = (
    *("readme*", "license*", "notice*", "*.md", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.pdf"),
    *(".git*", ".ds_store", ".msc", ".mdl", ".mv"),  # version control, macOS and ModelScope
    *("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json"),
    *("training_args.bin", "events.out.tfevents.*"),
    *("*.onnx", "*.h5", "*.msgpack", "*.ot"),  # other frameworks than PyTorch
)


# Weights that are not loaded if the folder also has them as safetensors, with the files that show this.
_REPLACED = {
    "model.safetensors": "pytorch_model*.bin*",
    "model.safetensors.index.json": "pytorch_model*.bin*",
    "adapter_model.safetensors": "adapter_model.bin",
}


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a pretrained model, or an adapter of one."""
    return any((folder / name).is_file() for name in _MARKS)


def find_model(name: str) -> Path | None:
    """Return the folder of a model on this machine: a path, or a hub name whose files were downloaded before.

    A path may be an output folder of the command `train`, which holds the model in `model/`.
    """
    folder = expanded(name)
    for place in (folder, folder / "model"):
        if is_model(place):
            return place
    return None if folder.exists() else _snapshot(name, offline=True)


def fetch_model(name: str) -> Path:
    """Return the folder of a model and fetch what it adapts, from the hub if they are not on this machine.

    Raises:
        UsageError: if the model is not available; the error gives the reason.
    """
    folder = _fetch(name)
    for path, base in adapted_models(folder):
        if find_model(base) is None:
            logger.info("%s adapts another model", path)
            _fetch(base)
    return folder


def adapted_models(folder: Path) -> list[tuple[Path, str]]:
    """Return the adapter configurations (PEFT) loaded with a model, each with the base model it names."""
    found = []
    for place in _loaded_folders(folder):
        path = place / "adapter_config.json"
        base = json_object(path).get("base_model_name_or_path")
        if isinstance(base, str) and base:
            found.append((path, base))
    return found


def model_sha256(folder: Path) -> str:
    """Return a hash of everything that can change a model's output, independent of its folder.

    The hash covers every file except irrelevant ones (text for people, pictures, optimizer states, weights for other
    frameworks, weights that the folder also has as safetensors). For an adapter, it covers the base model, too.

    Raises:
        UsageError: if the base model of an adapter is not on this machine.
    """
    return _model_sha256(folder, ())


def files_sha256(folder: Path) -> str:
    """Return the hash of a model's own files, like `model_sha256`, without the base model of an adapter."""
    digest: str = _hash_files(folder).hexdigest()
    return digest


def _hash_files(folder: Path) -> Any:
    total = hashlib.sha256()
    for path in sorted(path.relative_to(folder) for path in _walk(folder, frozenset())):
        total.update(f"{path.as_posix()} {file_sha256(folder / path)}\n".encode())
    return total


def _model_sha256(folder: Path, above: Sequence[Path]) -> str:
    """Return the hash; `above` are the folders of the adapters that led here."""
    total = _hash_files(folder)
    for config, base in adapted_models(folder):
        base_folder = find_model(base)
        if base_folder is None:
            raise UsageError(
                f"{config} adapts the model {base!r}, which is not on this machine; download it, or write its folder "
                "there as base_model_name_or_path"
            )
        if base_folder.resolve() in (folder.resolve(), *above):
            raise UsageError(f"{config} names itself as its base model; correct base_model_name_or_path there")
        total.update(f"base {_model_sha256(base_folder, (*above, folder.resolve()))}\n".encode())
    digest: str = total.hexdigest()
    return digest


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yield the files that count, at every depth, following links to folders, too. `above` are real paths."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder above
        return
    paths = list(folder.iterdir())
    replaced = [_REPLACED[path.name] for path in paths if path.name in _REPLACED]
    for path in paths:
        name = path.name.lower()
        if path.is_dir() and name not in _IRRELEVANT_FOLDERS:
            yield from _walk(path, above | {real})
        elif path.is_file() and not any(fnmatch.fnmatchcase(name, each) for each in (*_IRRELEVANT_FILES, *replaced)):
            yield path


def _loaded_folders(folder: Path) -> list[Path]:
    """Return the model's folder and those of its modules, which may have routes with modules of their own."""
    places = {folder: None}
    modules = _json(folder / "modules.json")
    for module in modules if isinstance(modules, list) else []:
        if isinstance(module, dict) and isinstance(module.get("path"), str):
            place = folder / module["path"]
            routed = json_object(place / "router_config.json").get("types")
            places |= {place: None, **{place / name: None for name in routed or []}}
    return list(places)


def _json(path: Path) -> Any:
    """Return the content of a JSON file; None if it can't be read, which the code that loads the model reports."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def json_object(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it can't be read or is not an object."""
    content = _json(path)
    return content if isinstance(content, dict) else {}


def check_all_loaded(name: str, messages: list[str], may_miss: str = r"pooler\.") -> None:
    """Check that transformers found all weights in the files, because it draws missing ones at random.

    Args:
        name: The name of the model, for the error.
        messages: The messages of `quiet_loading`.
        may_miss: A pattern for the start of weights that may be missing. A pooler often is, and embeddings do not use
            it.

    Raises:
        UsageError: if other weights are missing.
    """
    missing = [key.strip() for key in re.findall(r"^([^|\n]+)\|\s*MISSING", _plain_report(messages), re.MULTILINE)]
    if missing := [key for key in missing if not re.match(may_miss, key)]:
        raise UsageError(f"model {name!r}: weights are not in its files ({missing[0]}), so they would be random")


def why_not_loaded(error: Exception, messages: Sequence[str]) -> str:
    """Return in one line why a library could not load a model, without its advice to programmers.

    Args:
        error: The error of the library.
        messages: The messages of `quiet_loading`.
    """
    text = " ".join(str(error).split())
    report = _plain_report(messages)
    if "trust_remote_code" in text:
        return (
            "it needs Python code of its own, which is never run here; choose a model that transformers supports itself"
        )
    if "ignore_mismatched_sizes" in text and (other := re.search(r"^([^|\n]+)\|\s*MISMATCH", report, re.MULTILINE)):
        return f"the shape of its weights {other[1].strip()} does not fit its config.json; fetch the model again"
    if "pad_token" in text:
        return "its tokenizer has no padding token; write one into its tokenizer_config.json as pad_token"
    logger.debug("%s: %s", type(error).__name__, text)
    for pattern, meaning in _LIBRARY_WORDS.items():
        if match := re.search(pattern, text, re.IGNORECASE):
            return match.expand(meaning)
    plain = " ".join(sentence for sentence in re.split(r"(?<=[.!?])\s+", text) if not _ADVICE.search(sentence))
    return f"{type(error).__name__}: {plain or 'see the message of its library with --verbose'}"[:300]


def longest_input(model: torch.nn.Module) -> int | None:
    """Return the number of positions of a transformers model in tokens; None if it has no limit.

    This is the length of its position table. If the table has a padding row, as in RoBERTa and its relatives, positions
    start after that row, and the rows up to it are unused. A model without a table (rotary or relative positions) is
    limited by `max_position_embeddings`, if its configuration sets it.
    """
    import torch

    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    limits = [getattr(config, "max_position_embeddings", None)]
    for name, table in model.named_modules():
        if isinstance(table, torch.nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            unused = 0 if table.padding_idx is None else table.padding_idx + 1
            limits.append(table.num_embeddings - unused)
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def longest_input_of(folder: Path) -> int | None:
    """Return `longest_input` of a model that is not loaded, by building it without weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    with quiet_loading(), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.num_hidden_layers = 1
        return longest_input(AutoModel.from_config(config, trust_remote_code=False))


@contextmanager
def within_gpu_memory(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error of a GPU into a UsageError with advice."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". GPU")[0]  # the rest lists memory by process
        raise UsageError(f"the GPU's memory is full ({reason}); {advice}") from error


@contextmanager
def quiet_loading() -> Iterator[list[str]]:
    """Send messages of transformers and sentence-transformers to the debug log, and collect them."""
    from transformers.utils import logging as transformers_logging

    talkers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    before = [(talker.handlers, talker.propagate) for talker in talkers]
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    keeper = _Keeper()
    for talker in talkers:
        talker.handlers, talker.propagate = [keeper], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield keeper.messages
    finally:
        if had_bars:
            transformers_logging.enable_progress_bar()
        for talker, (handlers, propagate) in zip(talkers, before, strict=True):
            talker.handlers, talker.propagate = handlers, propagate


def _plain_report(messages: Sequence[str]) -> str:
    """Return the messages without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(messages))


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        logger.debug("%s: %s", record.name, self.messages[-1])


def _snapshot(name: str, offline: bool) -> Path | None:
    """Return the model's folder in the hub's cache; None if it is not available, whatever the reason."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=offline, ignore_patterns=list(_OTHER_FORMATS)))
    except Exception as error:  # no model, no network, no cache: errors of several libraries
        logger.debug("model %s, offline=%s: %s", name, offline, error)
        return None
    if offline and not any(path.suffix in _WEIGHTS for path in folder.rglob("*")):
        return None  # only its configuration or tokenizer was downloaded
    return folder if is_model(folder) else None


def _fetch(name: str) -> Path:
    if folder := find_model(name):
        return folder
    if expanded(name).exists():
        raise UsageError(f"model {name!r}: no config.json in this folder, so it is not a pretrained model")
    refuse_download(f"model {name!r}")
    logger.info("fetching model %s", name)
    if fetched := _snapshot(name, offline=False):
        return fetched
    raise UsageError(
        f"model {name!r} is not a folder and can't be fetched from the model hub; give the folder of a "
        "pretrained model, or check its name and the network"
    )
