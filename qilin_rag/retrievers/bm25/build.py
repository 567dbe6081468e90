"""Build a BM25 index: several processes write shards, which are then merged by term, some terms at a time.

The bytes of the index depend neither on the number of processes nor on a build that stopped and resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.progress import stage
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.bm25.index import FILES, Scores
from qilin_rag.retrievers.bm25.shards import IndexShard, read_shard, shard_names, write_shards
from qilin_rag.retrievers.resumable import drop_part, is_whole, kept_parts

BLOCK_POSTINGS = 1 << 25  # postings that are merged in memory at a time


def write_index(notes: NoteStore, folder: Path, analyzer: str, k1: float, b: float, n_processes: int) -> None:
    """Write the files of the index; reuse the shards that an earlier build of the same index left."""
    shards = shard_names(len(notes))
    if not all(is_whole(folder, name) for name in FILES):
        with stage("indexing notes", len(notes)) as advance:
            write_shards(notes, folder, analyzer, n_processes, advance)
        kept_parts(folder, FILES, _Merge([folder / name for name in shards], k1, b).write)
    for name in shards:
        drop_part(folder, name)


class _Merge:
    """The shards of an index, with all that can be computed of them without the postings."""

    def __init__(self, shards: Sequence[Path], k1: float, b: float) -> None:
        """Number the terms of all shards, and compute idf and the length of each note."""
        self._shards = shards
        self._terms, self._ids = _number(shards)
        n_holding = np.zeros(len(self._terms), np.int64)
        lengths = []
        for shard, ids in self._each():
            n_holding[ids] += np.diff(shard.indptr)
            lengths.append(shard.lengths)
        self._firsts = np.cumsum([0, *map(len, lengths)])
        all_lengths = np.concatenate(lengths)
        average = float(all_lengths.mean()) or 1.0  # 0 if no note holds a term: then there is nothing to divide
        self._norms = k1 * (1 - b + b * all_lengths / average)
        self._idf = np.log(1 + (len(all_lengths) - n_holding + 0.5) / (n_holding + 0.5))
        self._indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_holding)])

    def write(self, terms: Path, offsets: Path, indptr: Path, rows: Path, impacts: Path) -> None:
        """Write all files of the index."""
        ends = np.cumsum(pc.binary_length(self._terms).to_numpy(zero_copy_only=False), dtype=np.int64)
        _save(offsets, np.concatenate([np.zeros(1, np.int64), ends]))
        _save(terms, np.frombuffer(self._terms.buffers()[2] or b"", np.uint8)[: ends[-1] if len(ends) else 0])
        _save(indptr, self._indptr)
        with rows.open("wb") as row_file, impacts.open("wb") as impact_file:
            _write_header(row_file, "<i4", int(self._indptr[-1]))
            _write_header(impact_file, "<f4", int(self._indptr[-1]))
            for block_rows, block_impacts in self._blocks():
                row_file.write(block_rows.data)
                impact_file.write(block_impacts.data)

    def _each(self) -> Iterator[tuple[IndexShard, npt.NDArray[np.int32]]]:
        """Yield each shard with the numbers of its terms."""
        return zip(map(read_shard, self._shards), self._ids, strict=True)

    def _blocks(self) -> Iterator[tuple[npt.NDArray[np.int32], Scores]]:
        """Yield the postings of all terms in order, those of some terms at a time."""
        start, n_terms = 0, len(self._terms)
        with stage("merging terms", n_terms) as advance:
            while start < n_terms:
                end = int(np.searchsorted(self._indptr, self._indptr[start] + BLOCK_POSTINGS, "right")) - 1
                end = max(start + 1, min(end, n_terms))
                yield self._block(start, end)
                advance(end - start)
                start = end

    def _block(self, start: int, end: int) -> tuple[npt.NDArray[np.int32], Scores]:
        """Gather the postings of the terms from `start` up to `end` from all shards."""
        free = self._indptr[start:end] - self._indptr[start]  # the place of the next posting of each term
        size = int(self._indptr[end] - self._indptr[start])
        rows, impacts = np.empty(size, np.int32), np.empty(size, np.float32)
        for (shard, ids), first in zip(self._each(), self._firsts.tolist(), strict=False):
            low, high = np.searchsorted(ids, [start, end])
            ids = ids[low:high]
            indptr = shard.indptr[low : high + 1]
            postings = slice(indptr[0], indptr[-1])
            sizes = np.diff(indptr)
            at = np.repeat(free[ids - start] - (indptr[:-1] - indptr[0]), sizes) + np.arange(indptr[-1] - indptr[0])
            of_store = shard.rows[postings].astype(np.int32) + first
            counts = shard.counts[postings].astype(np.float64)
            rows[at] = of_store
            impacts[at] = np.repeat(self._idf[ids], sizes) * counts / (counts + self._norms[of_store])
            free[ids - start] += sizes
        return rows, impacts


def _number(shards: Sequence[Path]) -> tuple[pa.StringArray, list[npt.NDArray[np.int32]]]:
    """Return all terms in the order of their bytes, and for each shard the rising numbers of its terms."""
    by_shard = [read_shard(path).terms for path in shards]
    encoded = pa.chunked_array(by_shard, pa.string()).dictionary_encode()
    found = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], pa.string())
    order = pc.sort_indices(found)
    places = np.empty(len(found), np.int32)
    places[order.to_numpy()] = np.arange(len(found), dtype=np.int32)
    numbers = np.concatenate([np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in encoded.chunks)])
    return found.take(order), np.split(places[numbers], np.cumsum(list(map(len, by_shard)))[:-1])


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def _write_header(file: IO[bytes], kind: str, size: int) -> None:
    header = {"descr": kind, "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, header)
