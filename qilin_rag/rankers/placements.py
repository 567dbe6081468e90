"""Place each clicked candidate among the unclicked ones: AUC by group, and the figures of sampled negatives.

Sampled negatives follow the leave-one-out protocol (He et al. 2017; UniSAR, Shi et al. 2024): each clicked note is
ranked against the negatives alone, without the other clicked notes. A request's figure is the mean over its clicked
notes. Sampled figures need not agree with those over all notes, not even on which ranker is better (Krichene and Rendle
2020).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.arrays import sorted_runs
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.metrics import Bools, Ints, Values

REQUEST_AUC = "request_auc"
HITS = {"hit@1": 1, "hit@5": 5, "hit@10": 10}
SAMPLED_NDCG = {"ndcg@5 (sampled)": 5, "ndcg@10 (sampled)": 10}
SAMPLED_MRR = {"mrr@10 (sampled)": 10}
SAMPLED_FIGURES = (*HITS, *SAMPLED_NDCG, *SAMPLED_MRR)


class Placements(NamedTuple):
    """The candidates of the other kind in the group of each candidate, (m,): clicked ones among unclicked, and back."""

    above: Ints
    """The number with a higher score."""
    tied: Ints
    """The number with the same score."""
    n_others: Ints
    """The number of all."""

    @property
    def below(self) -> Values:
        """Return the share of the others that score lower, ties as one half; NaN without others."""
        with np.errstate(invalid="ignore"):
            share: Values = (self.n_others - self.above - self.tied / 2) / self.n_others
        return share


def place(group: Ints, scores: npt.NDArray[np.floating], clicked: Bools, n_groups: int) -> Placements:
    """Count for each candidate the candidates of the other kind in its group, by score.

    Args:
        group: (m,), from 0 to n_groups - 1, in any order.
        scores: (m,), finite.
        clicked: (m,).
        n_groups: The number of groups.
    """
    order, is_first = sorted_runs(group, -scores)
    of, hit = group[order], clicked[order]
    tie = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    sizes = np.bincount(group, minlength=n_groups)
    start_of_group = (np.cumsum(sizes) - sizes)[of]
    above, tied, n_others = np.zeros((3, len(order)), np.int64)
    for kind in (True, False):
        is_other = hit != kind
        until = np.append(0, np.cumsum(is_other))
        rows = ~is_other
        above[order[rows]] = (until[starts][tie] - until[start_of_group])[rows]
        tied[order[rows]] = np.bincount(tie, is_other)[tie][rows] if len(order) else 0
        n_others[order[rows]] = np.bincount(of, is_other, minlength=n_groups)[of][rows]
    return Placements(above, tied, n_others)


def auc_by_group(group: Ints, scores: npt.NDArray[np.floating], clicked: Bools, n_groups: int) -> Values:
    """Return the AUC of each group, (n_groups,): the chance that a clicked one scores above an unclicked one.

    Ties count half (Mann and Whitney 1947; equal to scikit-learn's `roc_auc_score`). NaN for a group without both.
    """
    return mean_by_group(group[clicked], place(group, scores, clicked, n_groups).below[clicked], n_groups)


def mean_by_group(group: Ints, values: Values, n_groups: int) -> Values:
    """Return the mean of the values of each group, (n_groups,); NaN for a group without values."""
    with np.errstate(invalid="ignore"):
        means: Values = np.bincount(group, values, minlength=n_groups) / np.bincount(group, minlength=n_groups)
    return means


def request_auc(requests: Requests, scores: Floats) -> Values:
    """Return the AUC of each request, (n_requests,); NaN unless it has a clicked and an unclicked candidate."""
    return auc_by_group(requests.request, scores, requests.clicked, len(requests))


def sampled_figures(requests: Requests, scores: Floats, chosen: Bools | None = None) -> dict[str, Values]:
    """Return the figures of each clicked note against its request's unclicked ones, as means by request (n_requests,).

    A note with `above` negatives above it and `tied` ones of its score has each rank from above + 1 to
    above + tied + 1 with the same chance: its figure is the mean over these ranks.

    Args:
        requests: The requests with their clicked notes and negatives.
        scores: (m,), finite.
        chosen: (m,): the clicked candidates that count. Default: all.

    Returns:
        Values by figure; NaN for a request without a clicked note that counts.
    """
    counts = requests.clicked if chosen is None else requests.clicked & chosen
    placed = place(requests.request, scores, requests.clicked, len(requests))
    above, tied = placed.above[counts], placed.tied[counts]

    def mean_gain(gains: Values) -> Values:
        until = np.append(0.0, np.cumsum(gains))
        last, first = (until[np.minimum(rank, len(gains))] for rank in (above + tied + 1, above))
        return mean_by_group(requests.request[counts], (last - first) / (tied + 1), len(requests))

    return (
        {name: mean_gain(np.ones(k)) for name, k in HITS.items()}
        | {name: mean_gain(1 / np.log2(np.arange(k) + 2)) for name, k in SAMPLED_NDCG.items()}
        | {name: mean_gain(1 / (np.arange(k) + 1)) for name, k in SAMPLED_MRR.items()}
    )
