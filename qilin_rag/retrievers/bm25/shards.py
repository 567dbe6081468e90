"""Write and read the shards of a BM25 index: how often each term occurs in each of some thousand notes, by term.

Several processes may write shards. The process that started them gives the shards their names, so that what a process
writes after nobody waits for it is not part of a build.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.processes import in_processes
from qilin_rag.core.types import note_text
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS
from qilin_rag.retrievers.resumable import TEMPORARY, is_whole, kept_part

SHARD_NOTES = 16384  # a row within a shard fits 16 bits
_BLOCK_NOTES = 1024  # whose pieces are in memory at once


class IndexShard(NamedTuple):
    """Postings of consecutive notes; those of term i are at `indptr[i] : indptr[i + 1]`, by rising row."""

    terms: pa.StringArray  # without duplicates, by rising bytes
    indptr: npt.NDArray[np.int32]
    rows: npt.NDArray[np.uint16]
    counts: npt.NDArray[np.unsignedinteger]
    lengths: npt.NDArray[np.int32]  # the number of terms of each note


def shard_names(n_notes: int) -> dict[str, tuple[int, int]]:
    """Return the names of the shards, each with its first note and the one after its last."""
    starts = range(0, n_notes, SHARD_NOTES)
    return {f"shard-{start:09}.npz": (start, min(start + SHARD_NOTES, n_notes)) for start in starts}


def write_shards(notes: NoteStore, folder: Path, analyzer: str, n_processes: int, done: Callable[[int], None]) -> None:
    """Write the missing shards into the folder with `n_processes`; call `done` with the number of notes of each."""
    missing = {}
    for name, (start, stop) in shard_names(len(notes)).items():
        if is_whole(folder, name):
            done(stop - start)
        else:
            missing[name] = start, stop
    if (n_processes := min(n_processes, len(missing))) > 1:
        work = partial(_write_aside, folder, analyzer)
        items = ((name, notes.texts(start, stop)) for name, (start, stop) in missing.items())
        with closing(in_processes(n_processes, work, items, "a process that indexes notes")) as written:
            for name, aside in written:
                kept_part(folder, name, aside.replace)
                done(missing[name][1] - missing[name][0])
        return
    for name, (start, stop) in missing.items():
        kept_part(folder, name, partial(_write, notes.texts(start, stop), analyzer))
        done(stop - start)


def read_shard(path: Path) -> IndexShard:
    """Read a shard that `write_shards` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        offsets, data = arrays["offsets"], arrays["data"]
        terms = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
        return IndexShard(terms, arrays["indptr"], arrays["rows"], arrays["counts"], arrays["lengths"])


def analyze_notes(texts: pa.RecordBatch, analyzer: str) -> IndexShard:
    """Make the shard of these notes, at most `SHARD_NOTES`."""
    split, is_term = ANALYZERS[analyzer]
    blocks = [_split(texts.slice(start, _BLOCK_NOTES), split) for start in range(0, len(texts), _BLOCK_NOTES)]
    pieces = pa.chunked_array([block.pieces for block in blocks]).unify_dictionaries().combine_chunks()
    n_pieces = np.concatenate([block.n_pieces for block in blocks])
    order = pc.sort_indices(pieces.dictionary)  # by their UTF-8
    ordered = pieces.dictionary.take(order)
    are_terms = np.fromiter(map(is_term, ordered.to_pylist()), np.bool_, len(ordered))
    terms = ordered.filter(pa.array(are_terms)).cast(pa.string())
    is_term_of = np.empty(len(order), np.bool_)
    is_term_of[order] = are_terms
    first_pairs = np.empty(len(order), np.min_scalar_type(len(terms) * SHARD_NOTES))  # sorting fewer bits is faster
    first_pairs[order] = (np.cumsum(are_terms) - 1) * SHARD_NOTES
    numbers = pieces.indices.to_numpy()
    kept = is_term_of[numbers]
    rows = np.repeat(np.arange(len(texts), dtype=np.uint16), n_pieces)[kept]
    pairs, counts = np.unique(first_pairs[numbers[kept]] + rows, return_counts=True)
    indptr = np.searchsorted(pairs, np.arange(len(terms) + 1) * SHARD_NOTES).astype(np.int32)
    lengths = np.bincount(rows, minlength=len(texts)).astype(np.int32)
    kind = np.min_scalar_type(counts.max(initial=0))
    return IndexShard(terms, indptr, (pairs % SHARD_NOTES).astype(np.uint16), counts.astype(kind), lengths)


class _Pieces(NamedTuple):
    """The pieces that some notes are split into, note by note."""

    pieces: pa.DictionaryArray
    n_pieces: npt.NDArray[np.int64]


def _split(texts: pa.RecordBatch, split: Callable[[str], Iterable[str]]) -> _Pieces:
    notes = zip(*(column.to_pylist() for column in texts.columns), strict=True)
    joined = ["\0".join(split(note_text(title, content))) for title, content in notes]
    by_note = pc.split_pattern(pa.array(joined, pa.large_string()), "\0")
    return _Pieces(by_note.flatten().dictionary_encode(), by_note.value_lengths().to_numpy())


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


def _write_aside(folder: Path, analyzer: str, named: tuple[str, pa.RecordBatch]) -> tuple[str, Path]:
    """Write a shard in another process; return its name, and the file that is to get this name."""
    name, texts = named
    path = folder / f"{name}.{secrets.token_hex(4)}{TEMPORARY}"
    _write(texts, analyzer, path)
    return name, path
