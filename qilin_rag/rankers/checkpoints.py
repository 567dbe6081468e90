"""Check whether checkpoints are whole: transformers' Trainer accepts damaged ones and ignores missing files."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerState

from qilin_rag.core.errors import QilinError

TRAINER_STATE = "trainer_state.json"
_STATES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth", TRAINER_STATE)
_WRITE_FAILED = ("PytorchStreamWriter failed", "inline_container", "iostream error", "I/O error", "os error")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_BY_TORCH = (".pt", ".pth", ".bin")


def damage_of(checkpoint: Path) -> str | None:
    """Name the first file that is missing, cut off or damaged, and how; None if the checkpoint is whole."""
    for pattern in _STATES:
        if not any(checkpoint.glob(pattern)):
            return f"{checkpoint / pattern} is missing"
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    if not any(path.suffix in (".safetensors", ".bin") and path.name != "training_args.bin" for path in files):
        return f"{checkpoint} has no file of weights"
    return next((f"{path} is damaged" for path in files if not _is_whole(path)), None)


@contextmanager
def saving_to(folder: Path) -> Iterator[None]:
    """Turn a failed write below `folder` into one line; torch and safetensors report it in words of their own.

    Raises:
        QilinError: A file below `folder` can't be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not (_is_of(folder, error) if isinstance(error, OSError) else _is_write(error)):
            raise
        why = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise QilinError(
            f"{folder} can't be written to ({why}); its checkpoints are kept: make room, and the same command resumes"
        ) from error


def _is_of(folder: Path, error: OSError) -> bool:
    """Return whether the system refused a write to the folder; the error of a write to an open file names no file."""
    if not isinstance(error.filename, str | bytes):
        return error.errno in _DISK_ERRORS
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(folder.absolute())


def _is_write(error: Exception) -> bool:
    return any(sign in str(error) for sign in _WRITE_FAILED)


def _is_whole(path: Path) -> bool:
    try:
        if path.name == TRAINER_STATE:
            TrainerState.load_from_json(str(path)).stateful_callbacks["TrainerControl"]["args"]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):  # checks the length of the file against its header
                pass
        elif path.suffix in _BY_TORCH:
            with zipfile.ZipFile(path) as archive:  # written by torch.save; each member has a checksum
                return archive.testzip() is None
        else:
            return path.stat().st_size > 0 or path.suffix != ".json"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, SafetensorError):
        return False
    return True
