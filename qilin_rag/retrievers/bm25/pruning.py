"""Find the best notes of a query exactly, without reading more of its frequent terms than it takes (MaxScore).

After Turtle & Flood 1995: a note that holds none of the rarer terms scores at most what the frequent terms can add. If
that is less than the score of the k-th best note, only notes of the rarer terms are candidates. Frequent terms that
have most of the postings are not even added up, but looked up for the few notes that can still be among the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import positions_in
from qilin_rag.retrievers.postings import Candidates, Rows, Scores

FEWEST_POSTINGS = 1 << 14  # to add up fewer is faster than to look them up
_TO_TRY = 8  # look terms up if they have so many times the postings of the rarer ones
_LOOK_UP = 16  # the time to look up a posting, in times to add one
_FEW_OF_ALL = 32  # with more postings than this part of all notes, reading all scores is faster than picking some
_SAMPLED = 16384  # values, of which the k-th best is found quickly
Postings = Sequence[tuple[Rows, Scores]]


def best_sums(found: Postings, k: int, scores: Scores) -> Candidates:
    """Return places and scores of notes that share a term, among them the best `k` and all ties with the last.

    Args:
        found: The postings of each term of a query: rising places of notes, and what is added to their scores, above 0.
        k: The number of best notes to include.
        scores: Zeros, shape (n_notes,); they are zeros again afterwards.
    """
    if len(found) == 1:
        rows, impacts = found[0]
        best = np.flatnonzero(impacts >= _kth_best(impacts, k))
        return rows[best].astype(np.intp), impacts[best]
    by_size = sorted(range(len(found)), key=lambda i: len(found[i][0]))
    bounds = [float(impacts.max()) for _, impacts in found]
    if looked_up := _look_up_frequent(found, by_size, bounds, k, scores):
        return looked_up
    for rows, impacts in found:
        np.add.at(scores, rows, impacts)
    places = _best_added(found, by_size, bounds, k, scores)
    sums = scores[places]
    if sum(len(rows) for rows, _ in found) > len(scores) // _FEW_OF_ALL:
        scores.fill(0)
    else:
        _reset(scores, [rows for rows, _ in found])
    return places, sums


def sums_of(found: Postings, places: npt.NDArray[np.integer]) -> Scores:
    """Return the scores of the notes in these places, added in the order of the terms; 0 for a note without a term."""
    wanted = places.astype(np.int32)
    sums = np.zeros(len(places), np.float32)
    for rows, impacts in found:
        at = positions_in(rows, wanted)
        sums += np.where(at >= 0, impacts[at], np.float32(0))
    return sums


def _look_up_frequent(
    found: Postings, by_size: Sequence[int], bounds: Sequence[float], k: int, scores: Scores
) -> Candidates | None:
    """Add up only rarer terms, and look up the others for the best of their notes; None if this saves nothing."""
    n_rest, n_added = sum(len(rows) for rows, _ in found), 0
    total = rest = sum(bounds)
    added: list[Rows] = []
    best = None
    for i in by_size:
        rows, impacts = found[i]
        rest, n_rest, n_added = rest - bounds[i], n_rest - len(rows), n_added + len(rows)
        if n_rest < max(FEWEST_POSTINGS, n_added * _TO_TRY):
            break
        np.add.at(scores, rows, impacts)
        added.append(rows)
        if len(rows) < k or total - rest <= rest or _kth_best(partial := scores[rows], k) * _slack(found) <= rest:
            continue
        some = np.sort(rows[np.argpartition(partial, -k)[-k:]])
        least = float(sums_of(found, some).min()) * _slack(found) - rest
        chosen = [rows[scores[rows] >= least] for rows in added]
        if sum(map(len, chosen)) * len(found) * _LOOK_UP < n_rest:
            places = _join(chosen)
            best = places, sums_of(found, places)
            break
    _reset(scores, added)
    return best


def _best_added(
    found: Postings, by_size: Sequence[int], bounds: Sequence[float], k: int, scores: Scores
) -> npt.NDArray[np.intp]:
    """Return the places of the best notes once all terms are added up, from as few of the rarest terms as possible."""
    least, rest, n_read = -math.inf, sum(bounds), 0
    read: list[tuple[Rows, Scores]] = []
    for i in by_size:
        rows = found[i][0]
        n_read += len(rows)
        if n_read > len(scores) // _FEW_OF_ALL:
            least = max(least, _kth_best(scores[:: max(1, len(scores) // (8 * _SAMPLED))], k))
            if least > 0:
                return np.flatnonzero(scores >= least)
        read.append((rows, scores[rows]))
        least, rest = max(least, _kth_best(read[-1][1], k)), rest - bounds[i]
        if least * _slack(found) > rest:
            break
    return _join([rows[sums >= least] for rows, sums in read])


def _slack(found: Postings) -> float:
    """Return a factor for what is rounded when terms are added in another order."""
    return 1 - (len(found) + 2) * 2.0**-22


def _join(rows: Sequence[Rows]) -> npt.NDArray[np.intp]:
    """Return rows without duplicates, rising."""
    return np.unique(np.concatenate([np.zeros(0, np.int32), *rows])).astype(np.intp)


def _reset(scores: Scores, of_terms: Sequence[Rows]) -> None:
    for rows in of_terms:
        scores[rows] = 0


def _kth_best(values: Scores, k: int) -> float:
    """Return the k-th best of the values; -inf if there are fewer than `k`."""
    if len(values) < k:
        return -math.inf
    step = len(values) // max(k, _SAMPLED)
    if step > 1:  # leave most of them out, because partitioning is slow
        values = values[values >= np.partition(values[::step], -k)[-k]]
    return float(np.partition(values, -k)[-k])
