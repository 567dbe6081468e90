"""Write vectors of all notes to disk, shard by shard: on this machine, on several devices or on a Ray cluster.

A shard is a fixed range of notes. Its vectors depend on nothing else: not on who encoded it, nor when, nor after what.
Notes with the same text share the vector of the first of them, because another batch would change its last bits, and so
the order of the notes. Finished shards are kept with their checksums, so that a build resumes after a stop; at the end
they are joined to one file. Memory holds one shard for each worker.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.progress import stage
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.distinct import distinct, text_digests
from qilin_rag.retrievers.resumable import drop_part, is_whole, kept_part
from qilin_rag.retrievers.workers import in_processes

SHARD_NOTES = 8192
_VECTORS = "vectors.npy"
_RAY_SHARDS = 32  # shards in one pass of Ray Data: all of them are in its memory at once
Halves = npt.NDArray[np.float16]
MakeEncoder = Callable[[str | None], Callable[[Sequence[str], Sequence[str]], Halves]]
"""Loads the model on a device (None: the default one) and returns a function that encodes texts with names. Pickled to
workers.
"""


class VectorShard(NamedTuple):
    """A range of notes: its number, their texts, and their names in messages."""

    number: int
    texts: list[str]
    names: list[str]


def write_vectors(
    notes: NoteStore, folder: Path, make_encoder: MakeEncoder, devices: Sequence[str | None], on_ray: bool = False
) -> None:
    """Write the notes' vectors in the order of the store to `vectors.npy`: (n_notes, dimension), 16-bit floats."""
    n_shards = -(-len(notes) // SHARD_NOTES)
    if not is_whole(folder, _VECTORS):
        missing = [number for number in range(n_shards) if not is_whole(folder, _shard(number))]
        shards = (_read_shard(notes, number) for number in missing)
        if on_ray:
            encoded = _on_ray(shards, make_encoder)
        elif len(devices) > 1 and len(missing) > 1:
            encoded = _on_devices(shards, make_encoder, devices)
        else:
            encoded = _here(shards, make_encoder, devices[0])
        n_missing = sum(len(_ids(notes, number)) for number in missing)
        with stage("encoding notes", len(notes), len(notes) - n_missing) as advance, closing(encoded):
            for number, vectors in encoded:
                kept_part(folder, _shard(number), partial(_save, vectors))
                advance(len(vectors))
        kept_part(folder, _VECTORS, lambda path: _join(notes, folder, n_shards, path))
    for number in range(n_shards):
        drop_part(folder, _shard(number))


def open_vectors(folder: Path) -> Halves:
    """Open the file that `write_vectors` wrote, memory-mapped."""
    vectors: Halves = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
    return vectors


def _shard(number: int) -> str:
    return f"vectors-{number:05d}.npy"


def _ids(notes: NoteStore, number: int) -> npt.NDArray[np.int64]:
    return notes.note_idxs[number * SHARD_NOTES : (number + 1) * SHARD_NOTES]


def _read_shard(notes: NoteStore, number: int) -> VectorShard:
    ids = _ids(notes, number).tolist()
    return VectorShard(number, [note.text for note in notes.get(ids)], [f"note {note_idx}" for note_idx in ids])


def _save(vectors: Halves, path: Path) -> None:
    with path.open("wb") as file:  # np.save would append .npy to a path
        np.save(file, np.ascontiguousarray(vectors, dtype="<f2"))


def _join(notes: NoteStore, folder: Path, n_shards: int, path: Path) -> None:
    """Write the shards as one file, with one vector for all notes with the same text."""
    with path.open("wb") as file:
        for number in range(n_shards):
            vectors = np.load(folder / _shard(number), allow_pickle=False)
            if not number:
                header = {"descr": "<f2", "fortran_order": False, "shape": (len(notes), vectors.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(vectors.tobytes())
    digests = np.concatenate([text_digests(_read_shard(notes, number).texts) for number in range(n_shards)])
    groups = distinct(digests)
    first = groups.first[groups.number]
    joined = np.lib.format.open_memmap(path, mode="r+")
    copies = np.flatnonzero(first != np.arange(len(first)))
    for start in range(0, len(copies), SHARD_NOTES):
        rows = copies[start : start + SHARD_NOTES]
        joined[rows] = joined[first[rows]]
    joined.flush()


def _here(
    shards: Iterator[VectorShard], make_encoder: MakeEncoder, device: str | None
) -> Generator[tuple[int, Halves], None, None]:
    encode = make_encoder(device)
    for shard in shards:
        yield shard.number, encode(shard.texts, shard.names)


def _on_devices(
    shards: Iterator[VectorShard], make_encoder: MakeEncoder, devices: Sequence[str | None]
) -> Generator[tuple[int, Halves], None, None]:
    """Encode in one process for each device."""
    from loky.backend import get_context

    waiting = get_context().SimpleQueue()
    for device in devices:
        waiting.put(device)
    who = f"a process that encodes on one of {', '.join(map(str, devices))}"
    advice = " (memory is the usual reason: lower batch_size, or name fewer devices)"
    given = (make_encoder, waiting)
    return in_processes(len(devices), _encode_in_worker, shards, who, advice, _begin_worker, given)


_worker: dict[str, Any] = {}


def _begin_worker(make_encoder: MakeEncoder, waiting: Any) -> None:
    _worker["make"] = partial(make_encoder, waiting.get())


def _encode_in_worker(shard: VectorShard) -> tuple[int, Halves]:
    if "encode" not in _worker:  # an error in an initializer would not reach the process that waits for a shard
        _worker["encode"] = _worker["make"]()
    return shard.number, _worker["encode"](shard.texts, shard.names)


def _on_ray(shards: Iterator[VectorShard], make_encoder: MakeEncoder) -> Generator[tuple[int, Halves], None, None]:
    """Encode by actors of Ray Data, one for each GPU of the cluster, or for each CPU if there is no GPU.

    The cluster is the one that this process is connected to, else the one that RAY_ADDRESS names, else one that is
    started here for this build alone.
    """
    require("ray", "ray", what="engine ray")
    import ray

    started = not ray.is_initialized()
    if started and os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(logging_level=logging.WARNING)
        except ConnectionError as error:  # an OSError, which would be reported as one of writing
            raise UsageError(f"engine ray: no cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {error}") from error
    elif started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING, _node_ip_address="127.0.0.1"
        )
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        cluster = ray.cluster_resources()
        n_gpus = int(cluster.get("GPU", 0))
        workers = ray.data.ActorPoolStrategy(size=n_gpus or max(1, int(cluster["CPU"])))
        while some := list(itertools.islice(shards, _RAY_SHARDS)):
            encoded = ray.data.from_items([shard._asdict() for shard in some], override_num_blocks=len(some)).map(
                _RayWorker,
                fn_constructor_args=(make_encoder,),
                compute=workers,
                **({"num_gpus": 1} if n_gpus else {"num_cpus": 1}),
            )
            for row in encoded.iter_rows():
                if row["error"]:
                    raise UsageError(row["error"])
                yield row["number"], np.frombuffer(row["vectors"], np.float16).reshape(row["n_notes"], -1)
    finally:
        if started:
            ray.shutdown()


class _RayWorker:
    """The work of an actor on a shard."""

    def __init__(self, make_encoder: MakeEncoder) -> None:
        self._encode = make_encoder(None)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the vectors as bytes, which Ray's tables don't change, or a usage error as text."""
        made = {"number": row["number"], "n_notes": len(row["texts"]), "vectors": b"", "error": ""}
        try:
            return made | {"vectors": self._encode(list(row["texts"]), list(row["names"])).tobytes()}
        except UsageError as error:
            return made | {"error": str(error)}
