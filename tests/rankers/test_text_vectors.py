"""Vectors that are kept for dcn-v2: whole or made again, and those of older versions as they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qilin_rag.rankers.text_vectors import kept_vectors

MADE = np.arange(12, dtype=np.float32).reshape(4, 3)


class Encoder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> Iterator[np.ndarray]:
        self.n += 1
        return iter([MADE[:3], MADE[3:]])


def kept(encode: Encoder) -> np.ndarray:
    return np.array(kept_vectors(["encoder", "notes"], len(MADE), encode))


def files() -> list[Path]:
    return sorted(Path("cache/vectors").iterdir())


def test_they_are_made_once_and_nothing_is_left_beside_them() -> None:
    encode = Encoder()
    for _ in range(2):
        assert np.array_equal(kept(encode), MADE)
    assert encode.n == 1
    assert [path.suffix for path in files()] == [".lock", ".npy", ".json"]


@pytest.mark.parametrize("damage", ["a bit", "cut", "record"])
def test_what_is_damaged_is_said_and_made_again(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    encode = Encoder()
    kept(encode)
    _, path, record = files()
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[-1] ^= 1
        path.write_bytes(content)
        os.utime(path, (1, 1))  # another time than before, also where the clock of the file system is slow
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        record.write_text("{")
    with caplog.at_level(logging.WARNING, "qilin_rag"):
        assert np.array_equal(kept(encode), MADE)
    assert encode.n == 2
    assert "are damaged; they are made again" in caplog.text


def test_those_of_a_version_without_checksums_are_used_and_get_one() -> None:
    encode = Encoder()
    kept(encode)
    files()[-1].unlink()
    assert np.array_equal(kept(encode), MADE)
    assert (encode.n, len(files())) == (1, 3)


def test_a_failed_encoding_leaves_nothing() -> None:
    def fails() -> Iterator[np.ndarray]:
        yield MADE[:3]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        kept_vectors(["encoder", "notes"], len(MADE), fails)
    assert [path.suffix for path in files()] == [".lock"]
