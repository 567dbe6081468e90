"""Reads the header of a GGUF file: llama.cpp is told its batch, by the context length, before it opens the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_KEY = 1 << 16


def check_gguf(name: str, setting: str) -> None:
    """Raise a UsageError if this is not a GGUF file."""
    path = expanded(name)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UsageError(f"the GGUF file {path} can't be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise UsageError(f"{path} is not a GGUF file; give another as {setting}")


def context_length_of(path: Path) -> int:
    """Return the most tokens that the model in a GGUF file reads.

    Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Raises:
        UsageError: if the file can't be read, or its header names no context length.
    """
    try:
        with path.open("rb") as file:
            magic, _, _, n_pairs = struct.unpack("<4sIQQ", file.read(24))
            for _ in range(n_pairs if magic == b"GGUF" else 0):
                key = _text(file)
                (kind,) = struct.unpack("<I", file.read(4))
                value = _value(file, kind)
                if key.endswith(".context_length") and type(value) is int and value > 0:
                    return value
    except OSError as error:
        raise UsageError(f"the GGUF file {path} can't be read: {error.strerror}") from error
    except (struct.error, KeyError, ValueError, OverflowError):
        pass
    raise UsageError(f"{path} does not say how many tokens its model reads; set llm.engine.max_model_len")


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _LONGEST_KEY:
        raise ValueError("a name that long is none")
    return file.read(length).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> object:
    """Read a number; skip a text or an array."""
    n_skipped = 0
    if kind == _STRING:
        (n_skipped,) = struct.unpack("<Q", file.read(8))
    elif kind == _ARRAY:
        of, n_items = struct.unpack("<IQ", file.read(12))
        if of == _ARRAY:
            raise ValueError("no known key holds arrays of arrays")
        if of == _STRING:
            for _ in range(n_items):
                _value(file, of)
        else:
            n_skipped = n_items * struct.calcsize(f"<{_SCALARS[of]}")
    else:
        form = f"<{_SCALARS[kind]}"
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]
    file.seek(n_skipped, 1)
    return None
