"""Build a BM25 index: several processes write shards, which are then merged by term, some terms at a time.

The bytes of the index depend neither on the number of processes nor on a build that stopped and resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.arrays import save_array
from qilin_rag.core.progress import stage
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.bm25.index import FILES
from qilin_rag.retrievers.bm25.shards import read_shard, shard_names, write_shards
from qilin_rag.retrievers.postings import PostingMerge, PostingShard, Rows
from qilin_rag.retrievers.resumable import drop_part, is_whole, kept_parts


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
        for path, ids in zip(shards, self._ids, strict=True):
            shard = read_shard(path)
            n_holding[ids] += np.diff(shard.indptr)
            lengths.append(shard.lengths)
        self._firsts = np.cumsum([0, *map(len, lengths[:-1])])
        all_lengths = np.concatenate(lengths)
        average = float(all_lengths.mean()) or 1.0  # 0 if no note holds a term: then there is nothing to divide
        self._norms = k1 * (1 - b + b * all_lengths / average)
        self._idf = np.log(1 + (len(all_lengths) - n_holding + 0.5) / (n_holding + 0.5))
        self._indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_holding)])

    def write(self, terms: Path, offsets: Path, indptr: Path, rows: Path, impacts: Path) -> None:
        """Write all files of the index."""
        ends = np.cumsum(pc.binary_length(self._terms).to_numpy(zero_copy_only=False), dtype=np.int64)
        save_array(offsets, np.concatenate([np.zeros(1, np.int64), ends]))
        save_array(terms, np.frombuffer(self._terms.buffers()[2] or b"", np.uint8)[: ends[-1] if len(ends) else 0])
        PostingMerge(self._numbered, self._firsts, self._indptr, self._impacts).write(indptr, rows, impacts)

    def _numbered(self) -> Iterator[PostingShard]:
        """Yield each shard with the numbers of its terms."""
        for path, ids in zip(self._shards, self._ids, strict=True):
            shard = read_shard(path)
            yield PostingShard(ids, shard.indptr, shard.rows, shard.counts)

    def _impacts(self, terms: npt.NDArray[np.int32], rows: Rows, counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return what terms add to the scores of notes, by how often they occur there."""
        often = counts.astype(np.float64)
        added: npt.NDArray[np.float64] = self._idf[terms] * often / (often + self._norms[rows])
        return added


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
