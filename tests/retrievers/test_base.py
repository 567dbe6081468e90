from __future__ import annotations

import hashlib
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.ties import ranked, text_hashes, tie_keys
from qilin_rag.retrievers import rank_hits


def by_hand(query: str, note_idx: int, seed: int = 0) -> int:
    """SplitMix64 in whole numbers, as its authors print it."""
    golden, most = 0x9E3779B97F4A7C15, 2**64

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % most
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % most
        return z ^ (z >> 31)

    asked = int.from_bytes(hashlib.blake2b(query.encode(), digest_size=8).digest(), "little")
    return mixed((mixed((asked + seed * golden) % most) + note_idx * golden) % most)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), max_size=30),
    st.integers(1, 40),
    st.sampled_from([0.0, -math.inf]),
    st.randoms(),
)
def test_ranking_is_a_sort_by_score_then_hash(scores: list[float], k: int, above: float, rng: object) -> None:
    note_idxs = list(range(100, 100 + len(scores)))
    rng.shuffle(note_idxs)  # type: ignore[attr-defined]
    expected = sorted(
        (pair for pair in zip(scores, note_idxs, strict=True) if pair[0] > above),
        key=lambda pair: (-pair[0], by_hand("咖啡", pair[1])),
    )
    hits, n_tied = rank_hits(np.array(scores), np.array(note_idxs, dtype=np.int64), k, " 咖 啡\n", above)
    assert [(hit.score, hit.note_idx) for hit in hits] == expected[:k]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    left_out = expected[k:]
    assert n_tied == sum(score == expected[k - 1][0] for score, _ in left_out)


@given(st.text(max_size=5), st.lists(st.integers(0, 2**63 - 1), unique=True, min_size=1), st.integers(0, 99))
def test_tie_keys_are_splitmix64(query: str, note_idxs: list[int], seed: int) -> None:
    keys = tie_keys(text_hashes([query]), np.array(note_idxs), seed)
    assert keys.tolist() == [by_hand(query, note_idx, seed) for note_idx in note_idxs]
    assert len(set(keys.tolist())) == len(note_idxs)


def test_ties_carry_nothing_of_the_ids() -> None:
    """Over 2,000 queries each of ten tied notes comes first as often; chi-squared of 9 degrees: under 27.9 in .999."""
    first = np.bincount([ranked(dict.fromkeys(range(10), 1.0), f"q{i}")[0].note_idx for i in range(2000)], minlength=10)
    assert ((first - 200) ** 2 / 200).sum() < 27.9


def test_hits_at_k_are_the_first_of_those_at_a_larger_k() -> None:
    scores = {note_idx: float(note_idx % 3) for note_idx in range(50)}
    whole = ranked(scores, "咖啡")
    assert [hit.note_idx % 3 for hit in whole] == [2] * 16 + [1] * 17 + [0] * 17
    for k in range(51):
        assert ranked(scores, "咖啡", k) == whole[:k]
        notes = np.array(list(scores))
        assert rank_hits(np.array(list(scores.values())), notes, k + 1, "咖啡", -math.inf)[0] == whole[: k + 1]
    assert ranked(dict(reversed(scores.items())), "咖啡") == whole  # the order of the file
    assert ranked(scores, "  咖啡\n") == whole != ranked(scores, "茶")
