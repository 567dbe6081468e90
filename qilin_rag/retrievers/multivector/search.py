"""Compare queries with all token vectors of an index, block by block, so that memory does not grow with the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qilin_rag.core.progress import stage
from qilin_rag.models.late_interaction import TokenVectors, max_sim
from qilin_rag.retrievers.multivector.shards import Ints, TokenIndex, TokenShard

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder

_BLOCK_NUMBERS = 1 << 24  # of the vectors that are read at a time, 64 MB
_HELD_SCORES = 1 << 26  # of some queries with all texts, 256 MB


def all_scores(
    encoder: MultiVectorEncoder, queries: Sequence[torch.Tensor], index: TokenIndex
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the scores of each query with all texts of an index, shape (n_texts,); -inf for a text without tokens.

    Args:
        encoder: The model, which compares.
        queries: The token vectors of each query.
        index: The token vectors of the texts.
    """
    import torch

    n_at_once = max(1, _HELD_SCORES // index.n_texts)
    is_empty = ~index.has_tokens()
    with stage("comparing notes", len(queries) * index.n_texts) as advance:
        for start in range(0, len(queries), n_at_once):
            some = queries[start : start + n_at_once]
            scores = np.empty((len(some), index.n_texts), np.float32)
            n_done = 0
            for shard in index.shards:
                for vectors, lengths in _blocks(shard):
                    texts = torch.from_numpy(vectors).to(encoder.device).split(lengths)
                    scores[:, n_done : n_done + len(lengths)] = max_sim(encoder, some, texts)
                    n_done += len(lengths)
                    advance(len(some) * len(lengths))
            scores[:, is_empty] = -np.inf
            yield from scores


def _blocks(shard: TokenShard) -> Iterator[tuple[TokenVectors, list[int]]]:
    """Yield the vectors of some texts, read into memory, with the number of tokens of each text."""
    n_rows = max(1, _BLOCK_NUMBERS // shard.vectors.shape[1])
    starts: Ints = shard.starts
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + n_rows, "right")) - 1
        last = max(last, first + 1)
        yield np.array(shard.vectors[starts[first] : starts[last]]), np.diff(starts[first : last + 1]).tolist()
        first = last
