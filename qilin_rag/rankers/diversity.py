"""Compute how varied the first ten notes of a ranking are, by the taxonomy of the notes.

Two notes that share `s` of the three levels of the taxonomy, from the top, are 1 - s / 3 apart; a missing level is
shared with no note. ILD@10 (intra-list diversity, Ziegler et al. 2005) is the mean distance of all pairs among the
first ten. Coverage@10 is the number of top-level categories among the first ten over that among all candidates
(S-recall, Zhai et al. 2003). Notes without a top-level category are taken out first. Both are exact means over all
orders of ties.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from qilin_rag.core.arrays import sorted_runs
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.metrics import Bools, Ints, Values

K = 10
ILD, COVERAGE = f"ild@{K}", f"coverage@{K}"
LEVELS = ("taxonomy1_id", "taxonomy2_id", "taxonomy3_id")
_MISSING = ("", "nan")
_NONE = -1


def taxonomy_of(requests: Requests, catalogue: Catalogue) -> Ints | None:
    """Return a number for the path to each level of each candidate's note, (m, 3); -1 from a missing level on.

    None if the notes have no such columns.
    """
    if any(level not in catalogue.notes.columns for level in LEVELS):
        return None
    notes, of = np.unique(requests.note_idx, return_inverse=True)
    table = catalogue.notes.read(notes, LEVELS)
    paths = np.zeros((len(notes), len(LEVELS)), np.int64)
    parent = np.zeros(len(notes), np.int64)
    for level, name in enumerate(LEVELS):
        codes = _codes(table.column(name).combine_chunks())
        is_missing = (codes == _NONE) | (parent == _NONE)
        _, path = np.unique(np.stack([parent, codes]), axis=1, return_inverse=True)
        parent = np.where(is_missing, _NONE, path.reshape(-1))
        paths[:, level] = parent
    return paths[of]


def diversity(requests: Requests, scores: Floats, paths: Ints) -> dict[str, Values]:
    """Return ILD@10 and Coverage@10 of each request, (n_requests,).

    NaN if fewer than two candidates (ILD) or none (Coverage) have a category.

    Args:
        requests: The requests with their candidates.
        scores: (m,), finite.
        paths: (m, 3), as `taxonomy_of` returns them.
    """
    has_category = paths[:, 0] != _NONE
    requests, scores, paths = requests.with_candidates(has_category), scores[has_category], paths[has_category]
    n, sizes = len(requests), np.diff(requests.offsets)
    is_above, is_last = _first_ten(requests, scores)
    n_last = np.bincount(requests.request, is_last, minlength=n)
    n_drawn = np.minimum(sizes, K) - np.bincount(requests.request, is_above, minlength=n)
    n_chosen = np.minimum(sizes, K)
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.where(n_last > 0, n_drawn / n_last, 0.0)
        two = np.where(n_last > 1, one * (n_drawn - 1) / (n_last - 1), 0.0)
        n_shared = np.zeros(n)
        for level in range(len(LEVELS)):
            of, above, last = _counts(requests, paths[:, level], is_above, is_last)
            pairs = above * (above - 1) / 2 + above * last * one[of] + last * (last - 1) / 2 * two[of]
            n_shared += np.bincount(of, pairs, minlength=n)
        ild = np.where(n_chosen > 1, 1 - n_shared / len(LEVELS) / (n_chosen * (n_chosen - 1) / 2), np.nan)
        of, above, last = _counts(requests, paths[:, 0], is_above, is_last)
        none_drawn = np.ones(len(of))
        for nth in range(K):  # places that another category of the last group takes
            left = np.maximum(n_last[of] - last - nth, 0) / np.maximum(n_last[of] - nth, 1)
            none_drawn *= np.where(nth < n_drawn[of], left, 1.0)
        found = np.bincount(of, np.where(above > 0, 1.0, 1 - none_drawn), minlength=n)
        coverage = found / np.bincount(of, minlength=n)
    return {ILD: ild, COVERAGE: coverage}


def _codes(column: pa.Array) -> Ints:
    """Return a number for each distinct text, -1 for a missing one."""
    encoded = column.dictionary_encode()
    is_missing = np.array([text in _MISSING for text in encoded.dictionary.to_pylist()], bool)
    codes: Ints = encoded.indices.fill_null(_NONE).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(np.append(is_missing, True)[codes], _NONE, codes)


def _first_ten(requests: Requests, scores: Floats) -> tuple[Bools, Bools]:
    """Return which candidates are among the first ten in any order of ties, and which in some only."""
    order, is_new = sorted_runs(requests.request, -scores)
    of = requests.request[order]
    tie = np.cumsum(is_new) - 1
    first = (np.flatnonzero(is_new) - requests.offsets[of[is_new]])[tie]  # rank of the first of the ties, from 0
    ends = first + np.bincount(tie)[tie] if len(order) else first
    is_above, is_last = np.zeros((2, len(order)), bool)
    is_above[order] = ends <= K
    is_last[order] = (first < K) & (ends > K)
    return is_above, is_last


def _counts(requests: Requests, path: Ints, is_above: Bools, is_last: Bools) -> tuple[Ints, Values, Values]:
    """Count candidates that are surely and maybe among the first ten, for each request and path that it has."""
    known = path != _NONE
    pairs, of = np.unique(np.stack([requests.request[known], path[known]]), axis=1, return_inverse=True)
    above, last = (
        np.bincount(of.reshape(-1), mask[known], minlength=pairs.shape[1]).astype(np.float64)
        for mask in (is_above, is_last)
    )
    return pairs[0], above, last
