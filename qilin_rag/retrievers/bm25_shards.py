"""The shards of a BM25 index: what stands how often in which of some thousand notes, sorted by term.

    python -m qilin_rag.retrievers.bm25_shards FOLDER ANALYZER

is a process that writes shards: it reads the notes on standard input, as Arrow, and says on standard output which
shard is there. It ends with its input, so with the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.data import NoteStore
from qilin_rag.errors import QilinError
from qilin_rag.retrievers.analyzers import ANALYZERS, Analyzer
from qilin_rag.retrievers.parts import is_whole, kept_part

SHARD_NOTES = 16384  # a row within a shard fits 16 bits
_PIECE_BYTES = 1 << 30

Said = Callable[[int], None]


class Shard(NamedTuple):
    """Postings of the notes from `start` on. Those of term i stand at `indptr[i] : indptr[i + 1]`, by rising row."""

    terms: pa.StringArray  # each once, by rising bytes
    indptr: npt.NDArray[np.int32]
    rows: npt.NDArray[np.uint16]
    counts: npt.NDArray[np.unsignedinteger]
    lengths: npt.NDArray[np.int32]  # terms of each note


def shard_names(n_notes: int) -> dict[str, tuple[int, int]]:
    """The shards of so many notes, each with the first of its notes and the first that is not."""
    starts = range(0, n_notes, SHARD_NOTES)
    return {f"shard-{start:09}.npz": (start, min(start + SHARD_NOTES, n_notes)) for start in starts}


def write_shards(notes: NoteStore, folder: Path, analyzer: Analyzer, n_processes: int, said: Said) -> None:
    """Have all shards in the folder, by so many processes; `said` is told of how many notes, as they are done."""
    places = shard_names(len(notes))
    missing: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name, (start, stop) in places.items():
        if is_whole(folder, name):
            said(stop - start)
        else:
            missing.put(name)
    n_processes = min(n_processes, missing.qsize())
    if n_processes < 2:
        while not missing.empty():
            name = missing.get()
            kept_part(folder, name, lambda path, name=name: write_shard(path, notes.texts(*places[name]), analyzer))
            said(places[name][1] - places[name][0])
        return
    command = [sys.executable, "-m", "qilin_rag.retrievers.bm25_shards", str(folder), analyzer]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    writers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) for _ in range(n_processes)]

    def feed(writer: subprocess.Popen[bytes]) -> None:
        assert writer.stdin and writer.stdout
        with writer.stdin, pa.ipc.new_stream(writer.stdin, notes.texts(0, 0).schema) as stream:
            while True:
                with suppress(queue.Empty):
                    name = missing.get_nowait()
                    start, stop = places[name]
                    _ask(writer, stream, name, notes.texts(start, stop))
                    said(stop - start)
                    continue
                return

    try:
        with ThreadPoolExecutor(n_processes) as threads:
            try:
                for done in as_completed([threads.submit(feed, writer) for writer in writers]):
                    done.result()
            except BaseException:
                for writer in writers:
                    writer.kill()
                raise
    finally:
        for writer in writers:
            writer.wait()
            assert writer.stdout
            writer.stdout.close()
