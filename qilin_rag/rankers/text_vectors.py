"""Encode queries and notes by a frozen bi-encoder: each distinct text once, kept in the cache folder.

Vectors are kept as float16, keyed by what they are made of (the encoder's files, the texts), and memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from qilin_rag.core.cache import cache_dir, in_use, make_room
from qilin_rag.core.checksums import file_record, is_as_recorded
from qilin_rag.core.extras import require
from qilin_rag.core.files import atomic_path, replace_text
from qilin_rag.core.former import former
from qilin_rag.core.hashing import fingerprint, json_hash
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.features import TextColumns, Vectors
from qilin_rag.rankers.passages import distinct_notes, note_texts
from qilin_rag.retrievers.dense.retriever import BiEncoder

logger = logging.getLogger(__name__)

_CHUNK = 4096  # texts encoded at a time, in order of length


def open_encoder(name: str, device: str | None) -> BiEncoder:
    """Open the bi-encoder of a folder or hub name, or what `train biencoder` wrote; its vectors get length 1.

    Vectors that are compared by dot product may be of any length, and cross layers multiply lengths.
    """
    require("neural", "torch", "sentence_transformers", what="text in dcn-v2")
    return BiEncoder(model=name, device=device, normalize=True)


def encoder_sha256(encoder: BiEncoder) -> str:
    """Hash all that can change a vector: the model's files, prefixes, pooling."""
    return fingerprint(encoder.identity())


def is_encoder(encoder: BiEncoder, sha256: str) -> bool:
    """Return whether this is the hash of an encoder, also in the form of versions before 0.2."""
    return sha256 in (encoder_sha256(encoder), fingerprint(former(encoder.identity())))


def text_columns(encoder: BiEncoder, requests: Requests, catalogue: Catalogue) -> TextColumns:
    """Return the vectors of the requests' queries and of their candidates, each distinct text once."""
    queries, query_row = np.unique(np.array(requests.queries, dtype=object), return_inverse=True)
    note_idx = np.unique(requests.note_idx)
    notes, text_of_note = distinct_notes(catalogue, note_idx)
    made_by = encoder_sha256(encoder)
    return TextColumns(
        notes=kept_vectors(
            [made_by, "notes", catalogue.notes.sha256, hashlib.sha256(notes.tobytes()).hexdigest()],
            len(notes),
            lambda: (encoder.embed_notes(note_texts(catalogue, part)) for part in _parts(notes)),
        ),
        text_of_note=text_of_note,
        queries=kept_vectors(
            [made_by, "queries", hashlib.sha256("\0".join(queries).encode()).hexdigest()],
            len(queries),
            lambda: (encoder.embed_queries(part.tolist()) for part in _parts(queries)),
        ),
        query_row=query_row.astype(np.int64),
    )


def _parts(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def kept_vectors(made_of: list[str], n: int, encode: Callable[[], Iterable[Floats]]) -> Vectors:
    """Return the `n` vectors made of this; make them if they do not exist, in one process at a time."""
    path = cache_dir() / "vectors" / f"{json_hash(made_of, sort_keys=False, ensure_ascii=True)[:24]}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _is_whole(path, n):
                logger.info("encoding %d %s, once", n, made_of[1])
                _write(path, n, encode())
                replace_text(_record_of(path), json.dumps(file_record(path)))
            vectors = _opened(path)
            in_use(path, by=vectors)
            make_room()
    except OSError as error:
        logger.warning("vectors can't be kept in %s (%s); they will be made again next time", path.parent, error)
        with tempfile.TemporaryDirectory(prefix="qilin_rag-", ignore_cleanup_errors=True) as temporary:
            path = Path(temporary) / path.name
            _write(path, n, encode())
            return _opened(path)
    return vectors


def _opened(path: Path) -> Vectors:
    vectors: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    return vectors


def _is_whole(path: Path, n: int) -> bool:
    """Return whether the file is as it was written; one of a version before 0.2 has no record, only `n` rows."""
    try:
        if len(_opened(path)) != n:
            return False
        if not _record_of(path).exists():
            replace_text(_record_of(path), json.dumps(file_record(path)))
            return True
        is_whole = is_as_recorded(path, json.loads(_record_of(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        logger.warning("kept vectors %s are damaged; they are made again", path)
    return is_whole


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write(path: Path, n: int, parts: Iterable[Floats]) -> None:
    """Write part by part beside `path`, then rename."""
    with atomic_path(path) as temporary:
        out, done = None, 0
        for part in parts:
            if out is None:
                out = np.lib.format.open_memmap(temporary, "w+", np.float16, (n, part.shape[1]))
            out[done : done + len(part)] = part
            done += len(part)
        if out is not None:
            out.flush()
