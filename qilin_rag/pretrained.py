"""Pretrained models by folder or hub name: found, fetched, and known by what they contain."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qilin_rag.errors import UsageError

logger = logging.getLogger(__name__)

_WEIGHTS = {".safetensors", ".bin"}
_CONTENT = {".json", ".txt", ".model"} | _WEIGHTS
_OTHER_FORMATS = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.gguf")


def find_model(name: str) -> Path | None:
    """The folder of a model that is on this machine: a path, or a hub name whose files were downloaded before.

    A path may be what the command `train` wrote, which holds the model in `model/`.
    """
    folder = Path(name).expanduser()
    for place in (folder, folder / "model"):
        if (place / "config.json").is_file() or (place / "modules.json").is_file():
            return place
    return None if folder.exists() else _snapshot(name, offline=True)


def fetch_model(name: str) -> Path:
    """The folder of a model, downloaded from the hub where it is not here; a UsageError says why it can't be had."""
    if found := find_model(name):
        return found
    if Path(name).expanduser().exists():
        raise UsageError(f"model {name!r}: no config.json in this folder, so it is no pretrained model")
    logger.info("fetching model %s", name)
    if fetched := _snapshot(name, offline=False):
        return fetched
    raise UsageError(
        f"model {name!r} is no folder here and can't be fetched from the model hub; give the folder of a "
        "pretrained model, or check its name and the network"
    )


def model_sha256(folder: Path) -> str:
    """Hash of the files that make the model (configuration, tokenizer, weights), wherever the folder lies."""
    paths = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix in _CONTENT and not {"onnx", "openvino", ".cache"} & set(path.relative_to(folder).parts)
    )
    if any(path.suffix == ".safetensors" for path in paths):
        paths = [path for path in paths if path.suffix != ".bin"]
    total = hashlib.sha256()
    for path in paths:
        with (folder / path).open("rb") as file:
            total.update(f"{path.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def check_all_loaded(name: str, messages: list[str], may_miss: str = r"pooler\.") -> None:
    """UsageError where transformers said that weights are missing in the files: it draws those at random.

    `may_miss` matches the beginning of those that may be: a pooler often is, and embeddings use none. `messages` are
    those of `quiet_loading`.
    """
    report = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(messages))
    missing = [key.strip() for key in re.findall(r"^([^|\n]+)\|\s*MISSING", report, re.MULTILINE)]
    if missing := [key for key in missing if not re.match(may_miss, key)]:
        raise UsageError(f"model {name!r}: weights are not in its files ({missing[0]}), so they would be random")


@contextmanager
def within_gpu_memory(advice: str) -> Iterator[None]:
    """Where the memory of a GPU does not suffice, a UsageError says what to do about it."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". GPU")[0]  # what follows is how much of it is whose
        raise UsageError(f"the GPU's memory is full ({reason}); {advice}") from error


@contextmanager
def quiet_loading() -> Iterator[list[str]]:
    """Keep what transformers and sentence-transformers say off the terminal: it goes to our debug log, and is given."""
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


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        logger.debug("%s: %s", record.name, self.messages[-1])


def _snapshot(name: str, offline: bool) -> Path | None:
    """The hub's files in its own cache; None where they can't be had, whatever the reason."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=offline, ignore_patterns=list(_OTHER_FORMATS)))
    except Exception as error:  # no such model, no network, nothing kept: an error class each, of several libraries
        logger.debug("model %s, offline=%s: %s", name, offline, error)
        return None
    if offline and not any(path.suffix in _WEIGHTS for path in folder.rglob("*")):
        return None  # only its configuration or tokenizer was ever downloaded
    return folder if (folder / "config.json").is_file() or (folder / "modules.json").is_file() else None
