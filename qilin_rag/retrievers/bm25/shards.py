"""The shards of a BM25 index: which term stands how often in which of some thousand notes, sorted by term.

`python -m qilin_rag.retrievers.bm25.shards ANALYZER` is a process that writes them. It reads the notes on standard
input, as Arrow, and ends with it, so with the process that started it. That one gives the shards their names: what a
process is still writing once nobody waits for it is no part of any build.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.core.errors import QilinError
from qilin_rag.core.types import Note
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS
from qilin_rag.retrievers.resumable import is_whole, kept_part

SHARD_NOTES = 16384  # a row within a shard fits 16 bits


class IndexShard(NamedTuple):
    """Postings of some notes in a row. Those of term i stand at `indptr[i] : indptr[i + 1]`, by rising row."""

    terms: pa.StringArray  # each once, by rising bytes
    indptr: npt.NDArray[np.int32]
    rows: npt.NDArray[np.uint16]
    counts: npt.NDArray[np.unsignedinteger]
    lengths: npt.NDArray[np.int32]  # how many terms each note has


def shard_names(n_notes: int) -> dict[str, tuple[int, int]]:
    """The shards of so many notes, each with its first note and the one after its last."""
    starts = range(0, n_notes, SHARD_NOTES)
    return {f"shard-{start:09}.npz": (start, min(start + SHARD_NOTES, n_notes)) for start in starts}


def write_shards(notes: NoteStore, folder: Path, analyzer: str, n_processes: int, done: Callable[[int], None]) -> None:
    """Have all shards in the folder, by so many processes; `done` is told of how many notes, from several threads."""
    places = shard_names(len(notes))
    missing = []
    for name, (start, stop) in places.items():
        if is_whole(folder, name):
            done(stop - start)
        else:
            missing.append(name)
    if min(n_processes, len(missing)) > 1:
        _by_processes(notes, folder, analyzer, {name: places[name] for name in missing}, n_processes, done)
        return
    for name in missing:
        start, stop = places[name]
        kept_part(folder, name, partial(_write, notes.texts(start, stop), analyzer))
        done(stop - start)


def read_shard(path: Path) -> IndexShard:
    """What was written."""
    with np.load(path, allow_pickle=False) as arrays:
        offsets, data = arrays["offsets"], arrays["data"]
        terms = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
        return IndexShard(terms, arrays["indptr"], arrays["rows"], arrays["counts"], arrays["lengths"])


def analyze_notes(texts: pa.RecordBatch, analyzer: str) -> IndexShard:
    """The shard of these notes, of which there are `SHARD_NOTES` at most."""
    analyze = ANALYZERS[analyzer]
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__
    found = array("i")
    lengths = np.zeros(len(texts), np.int32)
    for row, (title, content) in enumerate(zip(*(column.to_pylist() for column in texts.columns), strict=True)):
        terms = analyze(Note(note_idx=row, title=title, content=content).text)
        found.extend(map(ids.__getitem__, terms))
        lengths[row] = len(terms)
    ordered = sorted(ids)  # as their UTF-8 is
    places = np.empty(len(ids), np.int64)
    places[np.fromiter(map(ids.__getitem__, ordered), np.int64, len(ids))] = np.arange(len(ids))
    rows = np.repeat(np.arange(len(texts)), lengths)
    pairs = places[np.frombuffer(found, np.int32)] * SHARD_NOTES + rows if len(found) else np.zeros(0, np.int64)
    pairs, counts = np.unique(pairs, return_counts=True)
    indptr = np.searchsorted(pairs, np.arange(len(ids) + 1) * SHARD_NOTES).astype(np.int32)
    counts = counts.astype(np.min_scalar_type(counts.max(initial=0)))
    return IndexShard(pa.array(ordered, pa.string()), indptr, (pairs % SHARD_NOTES).astype(np.uint16), counts, lengths)


def _write(texts: pa.RecordBatch, analyzer: str, path: Path) -> None:
    shard = analyze_notes(texts, analyzer)
    _, offsets, data = shard.terms.buffers()
    arrays: dict[str, npt.NDArray[Any]] = {
        "offsets": np.frombuffer(offsets, np.int32, len(shard.terms) + 1) if offsets else np.zeros(1, np.int32),
        "data": np.frombuffer(data or b"", np.uint8),
        "indptr": shard.indptr,
        "rows": shard.rows,
        "counts": shard.counts,
        "lengths": shard.lengths,
    }
    with path.open("wb") as file:
        np.savez(file, **arrays, allow_pickle=False)


def _by_processes(
    notes: NoteStore,
    folder: Path,
    analyzer: str,
    missing: dict[str, tuple[int, int]],
    n_processes: int,
    done: Callable[[int], None],
) -> None:
    """Each process is given one shard after another by a thread of its own.

    They are no `multiprocessing` ones: those would import the user's script once more. `-P`: a module of the folder
    that we are in is theirs only where it is ours.
    """
    command = [sys.executable, "-P", "-m", "qilin_rag.retrievers.bm25.shards", analyzer]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    left = iter(missing.items())
    writers: list[subprocess.Popen[bytes]] = []

    def feed(writer: subprocess.Popen[bytes]) -> None:
        assert writer.stdin and writer.stdout
        stream = pa.ipc.new_stream(writer.stdin, notes.texts(0, 0).schema)
        for name, (start, stop) in left:
            kept_part(folder, name, partial(_have_written, writer, stream, notes.texts(start, stop)))
            done(stop - start)

    try:
        writers.extend(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            for _ in range(min(n_processes, len(missing)))
        )
        with ThreadPoolExecutor(len(writers)) as threads:
            try:
                for fed in as_completed([threads.submit(feed, writer) for writer in writers]):
                    fed.result()
            except BaseException:
                _stop(writers)  # so that the threads end
                raise
    finally:
        _stop(writers)


def _have_written(
    writer: subprocess.Popen[bytes], stream: pa.RecordBatchStreamWriter, texts: pa.RecordBatch, path: Path
) -> None:
    """Raise what the process raises: an OSError, or a QilinError where it is gone."""
    assert writer.stdin and writer.stdout
    with suppress(BrokenPipeError):  # then it is gone, and there is no reply
        stream.write_batch(texts, custom_metadata={"path": os.fsencode(path)})
        writer.stdin.flush()
    reply = writer.stdout.readline()
    if not reply:
        raise QilinError(f"a process that indexes notes ended with status {writer.wait()}; the same command goes on")
    if error := json.loads(reply):
        raise OSError(*error)


def _stop(writers: list[subprocess.Popen[bytes]]) -> None:
    for writer in writers:
        writer.kill()
        writer.wait()
        for pipe in (writer.stdin, writer.stdout):
            with suppress(BrokenPipeError):
                cast(IO[bytes], pipe).close()


def _asked() -> Iterator[tuple[Path, pa.RecordBatch]]:
    """The shards to be written, as they arrive: where to, and the texts of their notes."""
    try:
        stream = pa.ipc.open_stream(sys.stdin.buffer)
        while True:
            texts, metadata = stream.read_next_batch_with_custom_metadata()
            yield Path(os.fsdecode(metadata[b"path"])), texts
    except (StopIteration, pa.ArrowInvalid, OSError):  # the other process has ended, maybe in the middle
        return


def main() -> None:
    """Write shards until the input ends; a line of JSON for each: null, or errno and text of what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    analyzer = sys.argv[1]
    for path, texts in _asked():
        try:
            _write(texts, analyzer, path)
            error = None
        except OSError as failed:
            error = failed.errno, failed.strerror
        with suppress(BrokenPipeError):  # nobody is there to hear it, and no more notes will come
            os.write(sys.stdout.fileno(), f"{json.dumps(error)}\n".encode())


if __name__ == "__main__":
    main()
