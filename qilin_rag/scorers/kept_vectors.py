"""Keep token vectors on disk, by model and text, so that later runs and other processes read them.

They are stored in shards, safetensors files that are memory-mapped and never changed. A shard is written beside its
place and then renamed, so that neither a kill nor a second process leaves half a shard. Two processes that make the
same vectors write duplicates, which do no harm. All shards of all models share one limit; the least recently used go
first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qilin_rag.core.cache import cache_dir, in_use, make_room
from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import atomic_path, remove_leftovers
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.text import slug

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_SHARD_BYTES = 2**27
_ABANDONED_AFTER_S = 3600.0
Ids = tuple[int, ...]


class KeptVectors:
    """The vectors of texts, given as token ids, under one model, layer and precision.

    Vectors that can't be written or exceed the limit are held in memory: this object returns all it was given.
    """

    def __init__(self, name: str, made_of: Mapping[str, Any], most_bytes: int) -> None:
        """Open the folder of these vectors; with a limit of 0 nothing is read or written.

        Args:
            name: The readable part of the folder's name.
            made_of: All that determines a vector; the folder is named by its hash.
            most_bytes: The most bytes of all shards of all models.
        """
        self._root = cache_dir() / "vectors"
        self._folder = self._root / f"{slug(name)}-{fingerprint(dict(made_of))[:16]}"
        self._most_bytes = most_bytes
        self._shards: dict[Path, Any] = {}
        self._used: set[Path] = set()  # shards of these: they stay when room is made
        self._places: dict[str, Path] = {}
        self._unchecked: dict[str, str] = {}  # checksums of what was not read yet
        self._held: dict[str, torch.Tensor] = {}
        self._is_broken = False

    def look(self, texts: Iterable[Ids] = ()) -> None:
        """Open the shards that were added since the last call; remove one that can't be read.

        Shards that hold some of these texts count as used from now on.
        """
        if not self._most_bytes:
            return
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path not in self._shards:
                self._open(path)
        for path in {self._places[key] for key in map(_key, texts) if key in self._places} - self._used:
            self._used.add(path)
            with suppress(OSError):
                os.utime(path)
            in_use(path, by=self)
        remove_leftovers(self._folder)
        for path in self._folder.glob("*.part"):  # left by versions before 0.2 that were killed
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()

    def __contains__(self, ids: Ids) -> bool:
        key = _key(ids)
        return key in self._held or key in self._places

    def get(self, ids: Ids) -> torch.Tensor:
        """Return the kept vectors of a text, (n_tokens, hidden size), on the CPU.

        Raises:
            QilinError: The vectors are damaged. Their file is removed, and the next run makes them again.
        """
        key = _key(ids)
        if key in self._held:
            return self._held[key]
        path = self._places[key]
        vectors: torch.Tensor = self._shards[path].get_tensor(key)
        if key in self._unchecked and self._unchecked[key] != _checksum(vectors):
            path.unlink(missing_ok=True)
            raise QilinError(f"kept vectors {path} were damaged and are removed now; the same command makes them again")
        self._unchecked.pop(key, None)
        return vectors

    def put(self, texts: Sequence[Ids], vectors: Iterator[torch.Tensor]) -> None:
        """Keep the vectors of these texts; write a shard whenever there are enough of them."""
        fresh: dict[str, torch.Tensor] = {}
        n_bytes = 0
        for ids, of_text in zip(texts, vectors, strict=True):
            fresh[_key(ids)] = of_text
            n_bytes += of_text.nbytes
            if n_bytes >= _SHARD_BYTES:
                self._write(fresh, n_bytes)
                fresh, n_bytes = {}, 0
        if fresh:
            self._write(fresh, n_bytes)

    def _write(self, fresh: dict[str, torch.Tensor], n_bytes: int) -> None:
        """Write one shard; keep it in memory if it can't be written."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self._folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        if self._has_room(n_bytes):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as part:
                    save_file(fresh, part, metadata={key: _checksum(vectors) for key, vectors in fresh.items()})
                if self._open(path):
                    self._used.add(path)
                    in_use(path, by=self)
                    make_room()
                    return
            except (OSError, SafetensorError) as error:
                self._is_broken = True
                logger.warning(
                    "vectors can't be kept in %s (%s); they will be made again next time", path.parent, error
                )
        self._held |= fresh

    def _open(self, path: Path) -> bool:
        from safetensors import SafetensorError, safe_open

        try:
            shard = safe_open(path, framework="pt", device="cpu")
            checksums = shard.metadata() or {}
        except FileNotFoundError:  # another process made room
            return False
        except (OSError, SafetensorError) as error:
            logger.warning("kept vectors %s are damaged (%s) and removed", path, error)
            with suppress(OSError):
                path.unlink()
            return False
        self._shards[path] = shard
        self._places |= dict.fromkeys(checksums, path)
        self._unchecked |= checksums
        return True

    def _has_room(self, n_bytes: int) -> bool:
        """Return whether so many bytes may be written, after the least recently used shards are removed.

        A process that has a removed shard open can still read it.
        """
        if self._is_broken or not self._most_bytes:
            return False
        found = []
        for path in self._root.glob(f"*/*{_SUFFIX}"):
            with suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, path, stat.st_size))
        excess = sum(size for _, _, size in found) + n_bytes - self._most_bytes
        others = sorted(each for each in found if each[1] not in self._used)
        if excess > sum(size for _, _, size in others):
            self._is_broken = True
            logger.warning("more vectors than cache_gb allows (%.1f GB); the rest is not kept", self._most_bytes / 1e9)
            return False
        for _, path, size in others:
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
                excess -= size
        return excess <= 0


def _checksum(vectors: torch.Tensor) -> str:
    import torch

    return f"{zlib.crc32(vectors.contiguous().view(torch.uint8).numpy()):08x}"


def _key(ids: Ids) -> str:
    """Return the key of a text: a hash of its tokens, so that another version of the tokenizer gives another key."""
    return hashlib.sha256(array("q", ids).tobytes()).hexdigest()
