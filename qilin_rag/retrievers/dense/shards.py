"""Write vectors of all notes to disk, shard by shard: on this machine, on several devices or on a Ray cluster.

A shard is a fixed range of notes. Its vectors depend on nothing else: not on who encoded it, nor when, nor after what.
Notes with the same text and images share the vector of the first of them, because another batch would change its last
bits, and so the order of the notes. Finished shards are kept with their checksums, so that a build resumes after a
stop; at the end they are joined to one file. Memory holds one shard for each worker, and one that is read ahead.

An index with images has two more files: a hash of the images of each note, and the number of images left out by reason.
If notes are encoded by images alone, one without images has no vector: it is the row of zeros among the hashes.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import save_array
from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import write_text
from qilin_rag.core.processes import in_processes
from qilin_rag.core.progress import stage
from qilin_rag.data import NoteStore
from qilin_rag.models.batches import ahead
from qilin_rag.retrievers.dense.pictures import NotePictures, Pictured
from qilin_rag.retrievers.distinct import Digests, digests_of, distinct, text_digests
from qilin_rag.retrievers.resumable import drop_part, is_whole, kept_part

logger = logging.getLogger(__name__)
SHARD_NOTES = 8192
SHARD_PICTURED = 512  # images, all of which are in memory at once
_VECTORS, _IMAGES, _LEFT_OUT = "vectors.npy", "images.npy", "images.json"
_RAY_SHARDS, _RAY_PICTURED = 32, 8  # shards in one pass of Ray Data: all of them are in its memory at once
Halves = npt.NDArray[np.float16]
Encode = Callable[[Sequence[str], Sequence[str], Sequence[Sequence[bytes]]], Halves]
"""Returns the vectors of notes by their texts, their names and their images (none: empty)."""
MakeEncoder = Callable[[str | None], Encode]
"""Loads the model on a device (None: the default one) and returns a function that encodes notes. Pickled to workers."""


class VectorShard(NamedTuple):
    """A range of notes: its number, their texts, their names in messages, and their images if they are encoded."""

    number: int
    texts: list[str]
    names: list[str]
    images: list[list[bytes]]


class ImagesOfIndex(NamedTuple):
    """The images that an index was made of: a hash for each note, zeros for none; those left out, by reason."""

    digests: Digests
    left_out: Counter[str]


class _Build(NamedTuple):
    """The notes to encode, with their images (None: by text), or by their images alone."""

    notes: NoteStore
    pictures: NotePictures | None
    alone: bool

    @property
    def n_shards(self) -> int:
        return -(-len(self.notes) // self.shard_notes)

    @property
    def shard_notes(self) -> int:
        return SHARD_NOTES if self.pictures is None else max(1, SHARD_PICTURED // self.pictures.n)

    def files(self, number: int | None = None) -> list[str]:
        """Return the names of the files of a shard, or of the whole, in the order of writing."""
        names = [_VECTORS] if self.pictures is None else [_IMAGES, _LEFT_OUT, _VECTORS]
        return names if number is None else [name.replace(".", f"-{number:05d}.") for name in names]

    def ids(self, number: int) -> list[int]:
        ids: list[int] = self.notes.note_idxs[number * self.shard_notes : (number + 1) * self.shard_notes].tolist()
        return ids

    def texts(self, number: int) -> list[str]:
        return [note.text for note in self.notes.get(self.ids(number))]

    def read(self, number: int) -> tuple[VectorShard, Pictured | None]:
        """Return what is encoded of a shard; a note without image is left out if images are encoded alone."""
        names = [f"note {note_idx}" for note_idx in self.ids(number)]
        shard = VectorShard(number, self.texts(number), names, [])
        if self.pictures is None:
            return shard, None
        pictured = self.pictures.read(self.ids(number))
        rows = [row for row, images in enumerate(pictured.images) if images or not self.alone]
        texts, names = ([values[row] for row in rows] for values in (shard.texts, shard.names))
        return VectorShard(number, texts, names, [pictured.images[row] for row in rows]), pictured


def write_vectors(
    notes: NoteStore,
    folder: Path,
    make_encoder: MakeEncoder,
    devices: Sequence[str | None],
    on_ray: bool = False,
    pictures: NotePictures | None = None,
    alone: bool = False,
) -> None:
    """Write the notes' vectors in the order of the store to `vectors.npy`: (n_notes, dimension), 16-bit floats.

    Args:
        notes: The notes.
        folder: The folder of the build, with what an earlier one left.
        make_encoder: Makes the encoder of notes on a device.
        devices: The devices, each of which encodes in its own process; one encodes in this one.
        on_ray: Whether the workers of a Ray cluster encode.
        pictures: The images to encode; None for texts.
        alone: Whether images are encoded without texts, so that a note without image has no vector.

    Raises:
        UsageError: No note has an image, if images are encoded alone.
    """
    build = _Build(notes, pictures, alone)
    if not all(is_whole(folder, name) for name in build.files()):
        missing = _missing_shards(build, folder)
        read: dict[int, Pictured] = {}
        to_encode = _read_all(build, missing, read)
        if on_ray:
            encoded = _on_ray(to_encode, make_encoder, _RAY_SHARDS if pictures is None else _RAY_PICTURED)
        elif len(devices) > 1 and len(missing) > 1:
            encoded = _on_devices(to_encode, make_encoder, devices)
        else:
            encoded = _here(to_encode, make_encoder, devices[0])
        n_missing = sum(len(build.ids(number)) for number in missing)
        with stage("encoding notes", len(notes), len(notes) - n_missing) as advance, closing(encoded):
            for number, vectors in encoded:
                pictured = read.pop(number, None)
                images = pictured and ImagesOfIndex(pictured.digests, pictured.left_out)
                save = partial(save_array, values=np.ascontiguousarray(vectors, dtype="<f2"))
                _keep(folder, build.files(number), images, save)
                advance(len(build.ids(number)))
        images = _joined_images(build, folder)
        _keep(folder, build.files(), images, partial(_join, build, folder, images))
    _drop_shards(build, folder, range(build.n_shards))


def open_vectors(folder: Path) -> Halves:
    """Open the file that `write_vectors` wrote, memory-mapped."""
    vectors: Halves = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
    return vectors


def open_images(folder: Path) -> ImagesOfIndex:
    """Open what `write_vectors` wrote of the images that it encoded."""
    digests: Digests = np.load(folder / _IMAGES, allow_pickle=False)
    return ImagesOfIndex(digests, Counter(json.loads((folder / _LEFT_OUT).read_text(encoding="utf-8"))))


def _read_all(build: _Build, numbers: Sequence[int], read: dict[int, Pictured]) -> Iterator[VectorShard]:
    """Yield the shards; images are read while the shard before is encoded, and facts of them are put into `read`."""
    if build.pictures is None:
        yield from (build.read(number)[0] for number in numbers)
        return
    with ThreadPoolExecutor(1) as pool:
        for number, (shard, pictured) in ahead(pool, build.read, numbers, 1):
            if pictured is not None:
                read[number] = pictured._replace(images=[])
            yield shard


def _missing_shards(build: _Build, folder: Path) -> list[int]:
    """Return the numbers of the shards that an earlier build did not finish, and remove what it left of them.

    All are missing if a few of the images show that the images have changed since.
    """
    kept = [n for n in range(build.n_shards) if all(is_whole(folder, name) for name in build.files(n))]
    if build.pictures is not None:
        if kept:
            ids = np.concatenate([build.ids(number) for number in kept])
            digests = np.concatenate([np.load(folder / build.files(number)[0], allow_pickle=False) for number in kept])
            if changed := build.pictures.changed(ids, digests):
                logger.warning("%s; the build begins anew", changed)
                kept = []
        _drop_shards(build, folder, set(range(build.n_shards)).difference(kept))
    return sorted(set(range(build.n_shards)).difference(kept))


def _drop_shards(build: _Build, folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        for name in build.files(number):
            drop_part(folder, name)


def _keep(folder: Path, names: Sequence[str], images: ImagesOfIndex | None, save: Callable[[Path], None]) -> None:
    """Write the files of a shard or of the whole, the vectors last."""
    if images is not None:
        hashes, left_out, _ = names
        in_order = json.dumps(dict(sorted(images.left_out.items())))
        kept_part(folder, hashes, partial(save_array, values=images.digests.astype("<u8")))
        kept_part(folder, left_out, lambda path: write_text(path, f"{in_order}\n"))
    kept_part(folder, names[-1], save)


def _join(build: _Build, folder: Path, images: ImagesOfIndex | None, path: Path) -> None:
    """Write the shards as one file, with one vector for all notes with the same text and images."""
    shards = [folder / build.files(number)[-1] for number in range(build.n_shards)]
    has_vector = images.digests.any(axis=1) if images and build.alone else np.ones(len(build.notes), bool)
    if images and not has_vector.any():
        for number in [None, *range(build.n_shards)]:  # so that the next build looks for the images again
            for name in build.files(number):
                drop_part(folder, name)
        raise UsageError(
            f"no note has an image that can be read (left out: {dict(images.left_out)}); see that the images are in "
            f"{build.notes.images} as image_path names them, or set note_input to text"
        )
    dimension = max(np.load(shard, mmap_mode="r", allow_pickle=False).shape[1] for shard in shards)
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (int(has_vector.sum()), dimension)}
        np.lib.format.write_array_header_1_0(file, header)
        for shard in shards:
            file.write(np.load(shard, allow_pickle=False).tobytes())
    groups = distinct(_contents(build, images)[has_vector])
    first = groups.first[groups.number]
    joined = np.lib.format.open_memmap(path, mode="r+")
    copies = np.flatnonzero(first != np.arange(len(first)))
    for start in range(0, len(copies), SHARD_NOTES):
        rows = copies[start : start + SHARD_NOTES]
        joined[rows] = joined[first[rows]]
    joined.flush()


def _joined_images(build: _Build, folder: Path) -> ImagesOfIndex | None:
    if build.pictures is None:
        return None
    left_out: Counter[str] = Counter()
    digests = []
    for number in range(build.n_shards):
        hashes, reasons, _ = (folder / name for name in build.files(number))
        digests.append(np.load(hashes, allow_pickle=False))
        left_out.update(json.loads(reasons.read_text(encoding="utf-8")))
    return ImagesOfIndex(np.concatenate(digests), left_out)


def _contents(build: _Build, images: ImagesOfIndex | None) -> Digests:
    """Return a hash of what was encoded of each note."""
    if images and build.alone:
        return images.digests
    texts = np.concatenate([text_digests(build.texts(number)) for number in range(build.n_shards)])
    return texts if images is None else digests_of(row.tobytes() for row in np.hstack([texts, images.digests]))


def _here(
    shards: Iterator[VectorShard], make_encoder: MakeEncoder, device: str | None
) -> Generator[tuple[int, Halves], None, None]:
    encode = make_encoder(device)
    for shard in shards:
        yield shard.number, encode(shard.texts, shard.names, shard.images)


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
    return shard.number, _worker["encode"](shard.texts, shard.names, shard.images)


def _on_ray(
    shards: Iterator[VectorShard], make_encoder: MakeEncoder, n_at_once: int
) -> Generator[tuple[int, Halves], None, None]:
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
        while some := list(itertools.islice(shards, n_at_once)):
            encoded = ray.data.from_items([_as_row(shard) for shard in some], override_num_blocks=len(some)).map(
                _RayWorker,
                fn_constructor_args=(make_encoder,),
                compute=workers,
                **({"num_gpus": 1} if n_gpus else {"num_cpus": 1}),
            )
            for row in encoded.iter_rows():
                if row["error"]:
                    raise UsageError(row["error"])
                yield row["number"], np.frombuffer(row["vectors"], np.float16).reshape(row["n_notes"], row["dimension"])
    finally:
        if started:
            ray.shutdown()


def _as_row(shard: VectorShard) -> dict[str, Any]:
    return {name: value for name, value in shard._asdict().items() if name != "images" or value}


class _RayWorker:
    """The work of an actor on a shard."""

    def __init__(self, make_encoder: MakeEncoder) -> None:
        self._encode = make_encoder(None)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the vectors as bytes, which Ray's tables don't change, or a usage error as text."""
        made = {"number": row["number"], "n_notes": len(row["texts"]), "dimension": 0, "vectors": b"", "error": ""}
        try:
            images = [[bytes(image) for image in of_note] for of_note in row.get("images", ())]
            vectors = self._encode(list(row["texts"]), list(row["names"]), images)
            return made | {"dimension": vectors.shape[1], "vectors": vectors.tobytes()}
        except UsageError as error:
            return made | {"error": str(error)}
