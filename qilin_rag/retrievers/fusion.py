"""Fuse rankings of one question by reciprocal rank (Cormack et al. 2009)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit

RRF_K = 60


def reciprocal_ranks(hits: Iterable[Hit], rrf_k: int = RRF_K) -> list[float]:
    """Return 1 / (rrf_k + rank) of each hit."""
    return [1 / (rrf_k + hit.rank) for hit in hits]


def fuse_by_rank(rankings: Sequence[Sequence[Hit]], query: str, k: int) -> list[Hit]:
    """Return the best `k` notes of rankings by the sum of their reciprocal ranks; one ranking keeps its scores.

    Args:
        rankings: Rankings of one question.
        query: The text of the question, which orders ties.
        k: The most hits to return.

    Example:
        >>> first, second = [[Hit(note_idx=n, score=0, rank=r) for r, n in enumerate(ns, 1)] for ns in ([1, 2], [2, 3])]
        >>> [(hit.note_idx, round(hit.score, 4)) for hit in fuse_by_rank([first, second], "手冲", 2)]
        [(2, 0.0325), (1, 0.0164)]
    """
    if len(rankings) == 1:
        return list(rankings[0][:k])
    shares: dict[int, list[float]] = {}
    for hits in rankings:
        for hit, share in zip(hits, reciprocal_ranks(hits), strict=True):
            shares.setdefault(hit.note_idx, []).append(share)
    return ranked({note_idx: math.fsum(of_note) for note_idx, of_note in shares.items()}, query, k)
