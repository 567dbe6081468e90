"""Agreement on whole systems: soft pairwise accuracy, and the rank correlation that looks at the top."""

from __future__ import annotations

import numpy as np

from qilin_rag.core.stats import Clusters, Values, clusters_by, sign_patterns

_EQUAL = 1e-9


def soft_pairwise_accuracy(
    people: Values, scores: Values, clusters: Clusters | None = None, seed: int = 0
) -> float | None:
    """Return the soft pairwise accuracy (Thompson et al. 2024, arXiv 2409.09598).

    It is 1 less the mean over pairs of systems of |p of people - p of the measure|. A p is that of the one-sided paired
    permutation test that the first system is better; of all permutations up to 12 clusters of items, else of 10,000.

    Args:
        people: The labels, shape (systems, items); NaN for what nobody labelled.
        scores: The scores of the measure, likewise.
        clusters: The cluster of each item, whose answers are exchanged together; None means that each is its own.
        seed: Draws the permutations, the same ones for people and measure.

    Returns:
        A value from 0 to 1; None if no two systems share an item, or if people or the measure tell no two apart: each p
        would be 1, and the figure would follow from the order in which the systems are named.

    >>> made = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]])
    >>> soft_pairwise_accuracy(made, made * 2)
    1.0
    """
    if not all((np.abs(values[:, None] - values) > 0).any() for values in (people, scores)):
        return None
    of_people, of_scores = (pairwise_p(values, clusters, seed) for values in (people, scores))
    differences = np.abs(of_people - of_scores)[np.triu_indices(len(people), 1)]
    differences = differences[~np.isnan(differences)]
    return float(1 - differences.mean()) if len(differences) else None


def pairwise_p(values: Values, clusters: Clusters | None = None, seed: int = 0) -> Values:
    """Return the p of each system being better than each other, shape (systems, systems).

    The upper triangle has the share of permutations in which the sum of differences is at least that of the data, as
    in the paper. The other places, and pairs without shared items, are NaN.
    """
    n_systems, n_items = values.shape
    numbers = np.arange(n_items) if clusters is None else clusters_by(clusters.tolist())
    n_clusters = int(numbers.max(initial=-1)) + 1
    first, second = np.triu_indices(n_systems, 1)
    differences = values[first] - values[second]
    is_shared = ~np.isnan(differences)
    sums = np.zeros((n_clusters, len(first)))
    np.add.at(sums, numbers, np.where(is_shared, differences, 0.0).T)
    p = np.full((n_systems, n_systems), np.nan)
    p[first, second] = np.where(is_shared.any(axis=1), p_of_sums(sums, seed), np.nan)
    return p


def p_of_sums(sums: Values, seed: int = 0) -> Values:
    """Return the share of exchanges of two systems after which the first is at least as far ahead, shape (columns,).

    Args:
        sums: By how much the first system is ahead in each cluster, shape (clusters, columns).
        seed: Draws the exchanges; up to 12 clusters, all of them are made.
    """
    scale = np.abs(sums).sum(axis=0)
    as_far, n_patterns = np.zeros(sums.shape[1]), 0
    for signs in sign_patterns(len(sums), seed):
        as_far += (signs @ sums >= sums.sum(axis=0) - _EQUAL * scale).sum(axis=0)
        n_patterns += len(signs)
    found: Values = as_far / max(n_patterns, 1)
    return found


def tau_ap(first: Values, second: Values) -> float | None:
    """Return the AP correlation of two rankings of systems, in which the top weighs most (Yilmaz et al. 2008).

    It is the symmetric form that allows for ties, tau_AP,b (Urbano and Marrero 2017).

    Args:
        first: The values of the systems by one measure, the highest at the top, shape (n,).
        second: Their values by another one.

    Returns:
        A value from -1 to 1; None if either ranks nothing, since all values are equal.

    >>> tau_ap(np.array([3.0, 2.0, 1.0]), np.array([9.0, 8.0, 7.0]))
    1.0
    """
    both = [_ap_below(first, second), _ap_below(second, first)]
    return None if None in both else float(np.mean([value for value in both if value is not None]))


def _ap_below(values: Values, ranking: Values) -> float | None:
    """Return the AP correlation of `values` with a ranking: how many above each system should be above it."""
    is_above = ranking[None, :] > ranking[:, None]
    n_above = is_above.sum(axis=1)
    if not n_above.any():
        return None
    n_right = (is_above & (values[None, :] > values[:, None])).sum(axis=1)
    is_below = n_above > 0
    return float(2 * (n_right[is_below] / n_above[is_below]).mean() - 1)
