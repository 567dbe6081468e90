"""The difference of a ranking's figures between requests with an answer and those without, with its 95% interval.

Requests with an answer have fewer results and other queries, so the difference is not an effect of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import FiniteFloat, NonNegativeInt

from qilin_rag.core.stats import Clusters
from qilin_rag.core.types import Frozen
from qilin_rag.core.unpaired import unpaired_differences
from qilin_rag.rankers.slices import ANSWER, Partition


class GroupDifference(Frozen):
    """The mean of a figure over one part minus that over another, and its interval."""

    value: FiniteFloat
    """The difference."""
    n_first: NonNegativeInt
    """Requests of the first part that have the figure."""
    n_second: NonNegativeInt
    """Requests of the second part that have the figure."""
    ci95: tuple[FiniteFloat, FiniteFloat] | None
    no_interval: str | None = None
    """Why there is no interval."""


class SliceDifference(Frozen):
    """The difference of each figure between two parts of the requests, `first` minus `second`."""

    slice: str
    """The property that makes the parts: answer."""
    first: str
    """The first part: shown."""
    second: str
    """The second part: not shown."""
    figures: dict[str, GroupDifference]


def answer_differences(
    parts: Sequence[Partition], found: Sequence[Mapping[str, float] | None], clusters: Clusters
) -> list[SliceDifference]:
    """Return the differences between requests with an answer and those without; none if there are not both.

    Args:
        parts: The divisions of the requests.
        found: The figures of each request; None if nothing was clicked.
        clusters: The clusters of the requests, (n,).
    """
    names = list(dict.fromkeys(name for figures in found if figures for name in figures))
    values = np.array([[(figures or {}).get(name, np.nan) for name in names] for figures in found])
    return [
        SliceDifference(
            slice=part.name,
            first=part.labels[1],
            second=part.labels[0],
            figures={
                name: GroupDifference(
                    value=each.value,
                    n_first=each.n_first,
                    n_second=each.n_second,
                    ci95=each.interval[:2] if each.interval else None,
                    no_interval=each.no_interval,
                )
                for name, each in zip(names, unpaired_differences(values, part.of == 1, clusters), strict=True)
                if each is not None
            },
        )
        for part in parts
        if part.name == ANSWER and names and 0 < int((part.of == 1).sum()) < len(part.of)
    ]
