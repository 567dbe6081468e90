from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.retrievers import rank_hits


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), max_size=30),
    st.integers(1, 40),
    st.sampled_from([0.0, -math.inf]),
    st.randoms(),
)
def test_ranking_is_a_sort_by_score_then_note_idx(scores: list[float], k: int, above: float, rng: object) -> None:
    note_idxs = list(range(100, 100 + len(scores)))
    rng.shuffle(note_idxs)  # type: ignore[attr-defined]
    expected = sorted(
        (pair for pair in zip(scores, note_idxs, strict=True) if pair[0] > above), key=lambda pair: (-pair[0], pair[1])
    )
    hits, n_tied = rank_hits(np.array(scores), np.array(note_idxs, dtype=np.int64), k, above)
    assert [(hit.score, hit.note_idx) for hit in hits] == expected[:k]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    left_out = expected[k:]
    assert n_tied == sum(score == expected[k - 1][0] for score, _ in left_out)
