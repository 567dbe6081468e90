"""The order of notes with equal scores: by a hash, never by id.

In Qilin, the id of a note reveals whether it was clicked: of two notes in one request, the clicked one has the higher
id in three of four cases. An order of ties by id would leak this into every ranking. The hash is SplitMix64 (Steele et
al. 2014) over the hash of the query and the note. It is the same on each machine, in each process and for each number
of hits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qilin_rag.core.text import query_key
from qilin_rag.core.types import Hit

Hashes = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def text_hashes(texts: Sequence[str]) -> Hashes:
    """Return a 64-bit hash of each text, shape (n_texts,)."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def tie_keys(query_hashes: Hashes, note_idxs: npt.NDArray[Any], seed: int = 0) -> Hashes:
    """Return a number for each note that orders notes of equal scores, ascending; no two notes share a number.

    Args:
        query_hashes: The hash (`text_hashes`) of the query of each note, shape (n_notes,), or (1,) for all notes.
        note_idxs: The notes, shape (n_notes,).
        seed: The seed; another seed gives another order.
    """
    salt = np.array([seed % 2**64], np.uint64) * _GOLDEN
    return _mixed(_mixed(query_hashes + salt) + note_idxs.astype(np.uint64) * _GOLDEN)


def rank_order(scores: npt.NDArray[np.floating], note_idxs: npt.NDArray[Any], query: str) -> npt.NDArray[np.intp]:
    """Return the positions of one query's notes, best first: by score, and by `tie_keys` of the query if scores tie.

    Queries that read the same have the same order of ties, whatever the ids of their questions.
    """
    return np.lexsort((tie_keys(text_hashes([query_key(query)]), note_idxs), -scores))


def ranked(scores: Mapping[int, float], query: str, k: int | None = None) -> list[Hit]:
    """Return one query's notes as a ranking, best first (`rank_order`).

    Args:
        scores: The score of each note, by note_idx.
        query: The text of the query.
        k: The number of notes to return; None returns all.
    """
    note_idxs = np.fromiter(scores, np.int64, len(scores))
    of_notes = np.fromiter(scores.values(), np.float64, len(scores))
    best = rank_order(of_notes, note_idxs, query)[:k]
    return [
        Hit(note_idx=note_idx, score=score, rank=rank)
        for rank, (note_idx, score) in enumerate(
            zip(note_idxs[best].tolist(), of_notes[best].tolist(), strict=True), start=1
        )
    ]


def _mixed(values: Hashes) -> Hashes:
    """Return the output function of SplitMix64, a permutation of 64-bit numbers."""
    for shift, factor in _MIX:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
