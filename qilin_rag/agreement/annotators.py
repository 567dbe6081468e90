"""How far annotators agree with each other: Cohen's kappa of two, Krippendorff's alpha of any number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from qilin_rag.core.stats import Values

Level = Literal["nominal", "ordinal", "interval"]


def cohens_kappa(pairs: Sequence[tuple[str | int, str | int]], is_ordinal: bool = False) -> float | None:
    """Return Cohen's kappa (1960), or the weighted kappa (1968) with quadratic weights for numbers.

    Args:
        pairs: What two annotators said about each unit.
        is_ordinal: Whether disagreement counts by the square of the difference.

    Returns:
        The kappa; None if chance alone would give full agreement.

    >>> cohens_kappa([("a", "a"), ("b", "b"), ("a", "b"), ("b", "b")])
    0.5
    """
    values: list[str | int] = sorted({value for pair in pairs for value in pair})
    counts = np.zeros((len(values), len(values)))
    for one, other in pairs:
        counts[values.index(one), values.index(other)] += 1
    weights = 1 - np.eye(len(values))
    if is_ordinal:
        weights = np.square(np.subtract.outer(np.array(values, float), np.array(values, float)))
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    disagreement = float((weights * by_chance).sum())
    return None if disagreement == 0 else 1 - float((weights * counts).sum()) / disagreement


def krippendorff_alpha(ratings: Values, level: Level = "interval") -> float | None:
    """Return Krippendorff's alpha (2011, Computing Krippendorff's Alpha-Reliability).

    Args:
        ratings: The rating of each annotator for each unit, shape (annotators, units); NaN if there is none.
        level: How values differ: at all (nominal), by the ratings between them (ordinal), or by their square distance.

    Returns:
        The alpha: 1 is full agreement, 0 what chance gives. None if no unit has two ratings, or if all are equal.

    >>> krippendorff_alpha(np.array([[1.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 3.0]]))
    1.0
    """
    values, numbers = np.unique(ratings[~np.isnan(ratings)], return_inverse=True)
    counts = np.zeros((ratings.shape[1], len(values)))
    np.add.at(counts, (np.nonzero(~np.isnan(ratings))[1], numbers), 1)
    counts = counts[counts.sum(axis=1) >= 2]
    n_ratings = counts.sum(axis=1)
    pairs = (counts / (n_ratings[:, None] - 1)).T @ counts - np.diag((counts / (n_ratings[:, None] - 1)).sum(axis=0))
    sizes = pairs.sum(axis=0)
    distances = _distances(values, sizes, level)
    by_chance = np.outer(sizes, sizes) - np.diag(sizes)
    expected = float((by_chance * distances).sum())
    if expected == 0:
        return None
    return float(1 - (sizes.sum() - 1) * (pairs * distances).sum() / expected)


def _distances(values: Values, sizes: Values, level: Level) -> Values:
    """Return the distance of each value from each other, for values whose ratings number `sizes`."""
    match level:
        case "nominal":
            return 1 - np.eye(len(values))
        case "ordinal":
            middles = sizes.cumsum() - sizes / 2
            return np.square(np.subtract.outer(middles, middles))
        case "interval":
            return np.square(np.subtract.outer(values, values))
