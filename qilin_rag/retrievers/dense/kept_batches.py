"""Keep finished batches of vectors on disk within a shard, for encoders that are slow or cost money."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qilin_rag.retrievers.dense.shards import Halves
from qilin_rag.retrievers.distinct import text_digests

_RECORD = struct.Struct("<16sIII")  # the key of a batch, its texts, their dimension, and a checksum


class KeptBatches:
    """A file of finished batches, each appended in one write; what a killed process left half-written is not read."""

    def __init__(self, path: Path) -> None:
        """Set the path; nothing is read yet."""
        self._path = path

    def open(self, keys: Sequence[bytes]) -> dict[bytes, Halves]:
        """Return the batches with these keys, and forget all others, which are in a shard already."""
        found, n_bytes = self._read()
        done = {key: found[key] for key in keys if key in found}
        if not done:
            self.drop()
        elif n_bytes < self._path.stat().st_size:
            os.truncate(self._path, n_bytes)
        return done

    def add(self, key: bytes, vectors: Halves) -> Halves:
        """Write a batch, and return it."""
        content = np.ascontiguousarray(vectors, "<f2").tobytes()
        record = _RECORD.pack(key, *vectors.shape, zlib.crc32(content)) + content
        with self._path.open("ab") as file:
            file.write(record)
        return vectors

    def drop(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[bytes, Halves], int]:
        """Return the whole batches by key, and the bytes that they fill."""
        found: dict[bytes, Halves] = {}
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return found, 0
        start = 0
        while start + _RECORD.size <= len(content):
            key, n_texts, dimension, checksum = _RECORD.unpack_from(content, start)
            end = start + _RECORD.size + 2 * n_texts * dimension
            vectors = content[start + _RECORD.size : end]
            if end > len(content) or zlib.crc32(vectors) != checksum:
                break
            found[key] = np.frombuffer(vectors, "<f2").reshape(n_texts, dimension)
            start = end
        return found, start


def batch_key(texts: Sequence[str]) -> bytes:
    """Return a hash of the texts of a batch."""
    return hashlib.blake2b(text_digests(texts).tobytes(), digest_size=16).digest()
