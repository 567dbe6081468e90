"""Write the token vectors of all notes to disk, shard by shard, and open them; a build resumes after a stop.

Notes with the same text share one row, because another batch would change the last bits of its vectors, and so the
order of the notes. A shard is a fixed range of the distinct texts, in the order of the notes that have them first. Its
vectors depend on nothing else. The shards stay as they are: joined to one file they would need twice the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import save_array
from qilin_rag.core.progress import stage
from qilin_rag.data import NoteStore
from qilin_rag.models.late_interaction import TokenVectors
from qilin_rag.retrievers.distinct import distinct, text_digests
from qilin_rag.retrievers.resumable import kept_part, kept_parts

SHARD_TEXTS = 512
_TEXTS = "texts.npy"
_READ_NOTES = 4096  # whose texts are in memory at a time
Ints = npt.NDArray[np.int64]
EncodeTokens = Callable[[Sequence[str], Sequence[str]], list[TokenVectors]]
"""Returns the token vectors of texts, given with their names for errors."""


class TokenShard(NamedTuple):
    """The token vectors of some texts.

    Attributes:
        vectors: Those of all of them, shape (n_tokens, dimension).
        starts: The first row of each text, and the end of the last, shape (n_texts + 1,).
    """

    vectors: TokenVectors
    starts: Ints


class TokenIndex(NamedTuple):
    """The token vectors of all distinct texts of the notes.

    Attributes:
        shards: Their vectors, memory-mapped.
        texts: The number of the text of each note, shape (n_notes,).
    """

    shards: list[TokenShard]
    texts: Ints

    @property
    def n_texts(self) -> int:
        """Return the number of distinct texts."""
        return sum(len(shard.starts) - 1 for shard in self.shards)

    def has_tokens(self) -> npt.NDArray[np.bool_]:
        """Return whether each text has a vector, shape (n_texts,)."""
        return np.concatenate([np.diff(shard.starts) > 0 for shard in self.shards])


def write_token_vectors(notes: NoteStore, folder: Path, encode: EncodeTokens) -> None:
    """Write the token vectors of the notes in 32-bit floats; reuse the shards that an earlier build left.

    Args:
        notes: The notes.
        folder: The folder of the build.
        encode: Makes the vectors.
    """
    found = distinct(np.concatenate([text_digests(texts) for texts in _all_texts(notes)])).in_order()
    kept_part(folder, _TEXTS, partial(save_array, values=found.number))
    firsts = notes.note_idxs[found.first]
    with stage("encoding notes", len(firsts)) as advance:
        for number, start in enumerate(range(0, len(firsts), SHARD_TEXTS)):
            ids = firsts[start : start + SHARD_TEXTS].tolist()
            kept_parts(folder, _files(number), partial(_write_shard, notes, ids, encode))
            advance(len(ids))


def open_token_vectors(folder: Path) -> TokenIndex:
    """Open the files that `write_token_vectors` wrote, the vectors memory-mapped.

    Raises:
        ValueError: if they do not fit each other.
    """
    texts: Ints = _checked(np.load(folder / _TEXTS, allow_pickle=False), "<i8", 1)
    if (texts < 0).any():
        raise ValueError("it names a text that does not exist")
    shards: list[TokenShard] = []
    for number in range(-(-(int(texts.max()) + 1) // SHARD_TEXTS)):
        vectors, starts = (folder / name for name in _files(number))
        mapped: TokenVectors = _checked(np.load(vectors, mmap_mode="r", allow_pickle=False), "<f4", 2)
        shard = TokenShard(mapped, _checked(np.load(starts, allow_pickle=False), "<i8", 1))
        if shard.starts[:1].tolist() != [0] or (np.diff(shard.starts) < 0).any() or shard.starts[-1] != len(mapped):
            raise ValueError(f"{starts.name} does not fit {vectors.name}")
        shards.append(shard)
    index = TokenIndex(shards, texts)
    dimensions = {shard.vectors.shape[1] for shard in shards if len(shard.vectors)}
    if index.n_texts != texts.max() + 1 or len(dimensions) > 1:
        raise ValueError("its files do not fit each other")
    return index


def _checked(array: npt.NDArray[Any], kind: str, n_axes: int) -> npt.NDArray[Any]:
    if array.dtype.str != kind or array.ndim != n_axes:
        raise ValueError("its arrays are of other types")
    return array


def _files(number: int) -> list[str]:
    return [f"vectors-{number:05d}.npy", f"starts-{number:05d}.npy"]


def _all_texts(notes: NoteStore) -> Iterator[list[str]]:
    for start in range(0, len(notes), _READ_NOTES):
        yield [note.text for note in notes.get(notes.note_idxs[start : start + _READ_NOTES].tolist())]


def _write_shard(notes: NoteStore, ids: Sequence[int], encode: EncodeTokens, vectors: Path, starts: Path) -> None:
    encoded = encode([note.text for note in notes.get(ids)], [f"note {note_idx}" for note_idx in ids])
    lengths = [len(of_text) for of_text in encoded]
    save_array(vectors, np.concatenate(encoded).astype("<f4", copy=False))
    save_array(starts, np.concatenate([[0], np.cumsum(lengths)]).astype("<i8"))
