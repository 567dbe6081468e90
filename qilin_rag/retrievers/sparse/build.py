"""Build an index of sparse vectors: encode notes shard by shard, then merge the shards by term, some terms at a time.

A shard is a fixed range of distinct texts. Notes with the same text share one vector, because another batch would
change its last bits, and so the order of the notes. Memory holds one shard, or one block of postings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.core.arrays import save_array
from qilin_rag.core.progress import stage
from qilin_rag.core.types import Note
from qilin_rag.data import NoteStore
from qilin_rag.models.sparse_encoder import SparseVectors
from qilin_rag.retrievers.distinct import Distinct, distinct, text_digests
from qilin_rag.retrievers.postings import PostingMerge, PostingShard
from qilin_rag.retrievers.resumable import drop_part, is_whole, kept_part, kept_parts
from qilin_rag.retrievers.sparse.index import FILES

SHARD_NOTES = 4096  # what a build that stops loses at most; a row within a shard fits 16 bits
_READ_NOTES = 16384  # whose texts are in memory at once
EncodeSparse = Callable[[Sequence[str], Sequence[str]], SparseVectors]
"""Returns the vectors of notes by their texts and their names."""


def write_index(notes: NoteStore, folder: Path, encode: EncodeSparse) -> None:
    """Write the files of the index; reuse the shards that an earlier build of the same index left."""
    if not all(is_whole(folder, name) for name in FILES):
        texts = distinct_notes(notes)
        names = shard_names(len(texts.first))
        with stage("indexing notes", len(texts.first)) as advance:
            for name, (start, stop) in names.items():
                kept_part(folder, name, partial(_write_shard, notes, texts.first[start:stop], encode))
                advance(stop - start)
        kept_parts(folder, FILES, partial(_merge, [folder / name for name in names], texts))
    for path in sorted(folder.glob("shard-*.npz")):
        drop_part(folder, path.name)


def shard_names(n_texts: int) -> dict[str, tuple[int, int]]:
    """Return the names of the shards, each with its first text and the one after its last."""
    starts = range(0, n_texts, SHARD_NOTES)
    return {f"shard-{start:09}.npz": (start, min(start + SHARD_NOTES, n_texts)) for start in starts}


def distinct_notes(notes: NoteStore) -> Distinct:
    """Number the distinct texts of the notes, in the order of the first note of each."""
    places = (np.arange(start, min(start + _READ_NOTES, len(notes))) for start in range(0, len(notes), _READ_NOTES))
    return distinct(np.concatenate([text_digests(_texts(notes, some)) for some in places])).in_order()


def by_term(vectors: SparseVectors) -> PostingShard:
    """Return the vectors of consecutive texts, at most 65,536, as postings by term."""
    rows = np.repeat(np.arange(len(vectors.indptr) - 1, dtype=np.uint16), np.diff(vectors.indptr))
    order = np.argsort(vectors.terms, kind="stable")  # within a term, rows still rise
    terms = vectors.terms[order]
    starts = np.flatnonzero(np.diff(terms, prepend=-1))
    indptr = np.append(starts, len(terms)).astype(np.int32)
    return PostingShard(terms[starts], indptr, rows[order], vectors.weights[order])


def _write_shard(notes: NoteStore, places: npt.NDArray[np.int64], encode: EncodeSparse, path: Path) -> None:
    names = [f"note {note_idx}" for note_idx in notes.note_idxs[places].tolist()]
    vectors = encode(_texts(notes, places), names)
    with path.open("wb") as file:
        np.savez(file, **by_term(vectors)._asdict(), n_terms=vectors.n_terms, allow_pickle=False)


def _texts(notes: NoteStore, places: npt.NDArray[np.int64]) -> list[str]:
    """Return the texts of the notes in these places, which rise."""
    texts = []
    for start in range(int(places[0]), int(places[-1]) + 1, _READ_NOTES):
        low, high = np.searchsorted(places, [start, start + _READ_NOTES])
        if low < high:
            stop = min(start + _READ_NOTES, len(notes))
            columns = notes.texts(start, stop).take(pa.array(places[low:high] - start)).columns
            rows = zip(*(column.to_pylist() for column in columns), strict=True)
            texts += [Note(note_idx=0, title=title, content=content).text for title, content in rows]
    return texts


def _read_n_terms(path: Path) -> int:
    with np.load(path, allow_pickle=False) as arrays:
        return int(arrays["n_terms"])


def _read_shards(paths: Sequence[Path]) -> Iterator[PostingShard]:
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            yield PostingShard(*(arrays[name] for name in PostingShard._fields))


def _merge(
    shards: Sequence[Path], texts: Distinct, indptr: Path, rows: Path, weights: Path, starts: Path, notes: Path
) -> None:
    """Write the files of the index, given the paths to write them to."""
    n_holding = np.zeros(max(map(_read_n_terms, shards)), np.int64)
    for shard in _read_shards(shards):
        n_holding[shard.terms] += np.diff(shard.indptr)
    firsts = np.arange(len(shards), dtype=np.int64) * SHARD_NOTES
    all_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_holding)])
    merge = PostingMerge(partial(_read_shards, shards), firsts, all_starts, lambda terms, rows, values: values)
    merge.write(indptr, rows, weights)
    counts = np.bincount(texts.number, minlength=len(texts.first))
    save_array(starts, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]))
    save_array(notes, np.argsort(texts.number, kind="stable").astype(np.int32))
