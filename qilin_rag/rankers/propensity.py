"""Model how likely a position is looked at: position^-eta, with eta given or estimated from the clicks.

On a page of two columns (`page_columns`), the right one is looked at r times as often as the left one.

A click at a place that few look at stands for clicks that were not made there. Weighted by 1 / propensity, clicks count
as if every place were looked at (Joachims et al. 2017; Wang et al. 2018). For a loss of each candidate this is Saito et
al. (2020): cross-entropy against click / propensity, which is right on average at any position.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from qilin_rag.data.exposures import Ints
from qilin_rag.data.requests import Floats
from qilin_rag.rankers.page_columns import column_of

N_POSITIONS = 34
"""Buckets of the position: 0 unknown, each of the first 20 (position 0, the top, with 1), four for each doubling."""
_SINGLE, _PER_DOUBLING = 20, 4
N_POSITIONS_IN_COLUMNS = N_POSITIONS + (N_POSITIONS - _SINGLE) + 1
"""Buckets on a page of two columns: those of `N_POSITIONS`, of which the right column has its own from 20 on, and one
for position 0, which is in neither column."""
_EXPONENT_LEARNING_RATE = 0.02


class Examination(NamedTuple):
    """How likely a position is looked at: position^-exponent, and in the right column `right` times that."""

    exponent: float
    right: float = 1.0


def position_buckets(position: Ints, n_columns: int = 1) -> Ints:
    """Return the bucket of `N_POSITIONS` that each position is in; an unknown position is -1.

    With two columns it is one of `N_POSITIONS_IN_COLUMNS`.
    """
    far = np.floor(_PER_DOUBLING * np.log2(np.maximum(position, _SINGLE) / _SINGLE)).astype(np.int64)
    near = np.where(position < 0, 0, np.clip(position, 1, _SINGLE))
    buckets: Ints = np.minimum(near + far, N_POSITIONS - 1)
    if n_columns == 1:
        return buckets
    is_far_right = (position >= _SINGLE) & (column_of(position) == 1)
    buckets = np.where(is_far_right, buckets + N_POSITIONS - _SINGLE, buckets)
    return np.where(position == 0, N_POSITIONS_IN_COLUMNS - 1, buckets)


def click_weights(position: Ints, examination: Examination, most: float) -> Floats:
    """Return 1 / propensity, at most `most`: the limit removes variance, and leaves some bias.

    An unknown position has the weight 1, like the top: 0 or 1.
    """
    in_column = np.where(column_of(position) == 1, examination.right, 1.0)
    weights = np.maximum(position, 1).astype(np.float64) ** examination.exponent / in_column
    limited: Floats = np.minimum(weights, most).astype(np.float32)
    return limited


def estimate_examination(
    network: Any,
    groups: list[dict[str, Any]],
    batches: Iterable[tuple[dict[str, Any], Any, Any]],
    n_columns: int = 1,
) -> Examination:
    """Estimate eta of P(click) = position^-eta sigmoid(f(x)) by maximum likelihood; `network`, which is trained, is f.

    With two columns the right one has a factor beside, which is estimated with eta. Position 0 and an unknown one
    count as position 1, in neither column.

    The relevance must be in the features: if the platform ranks by something that they do not show, it counts as
    position.

    Args:
        network: The network f.
        groups: Its parameters with their learning rates for AdamW.
        batches: Features, clicks and positions.
        n_columns: The columns of the page, 1 or 2.

    Returns:
        The means over the last quarter of the steps.
    """
    exponent, log_right = (torch.nn.Parameter(torch.tensor(start)) for start in (0.5, 0.0))
    estimated = [exponent, log_right][:n_columns]
    optimizer = torch.optim.AdamW([*groups, {"params": estimated, "lr": _EXPONENT_LEARNING_RATE}], weight_decay=0.0)
    seen = []
    for features, clicked, position in batches:
        log_examined = -exponent * torch.log(position.clamp(min=1).float()).to(exponent.device)
        if n_columns == 2:
            is_right = (position > 0) & (position % 2 == 0)
            log_examined = log_examined + log_right * is_right.float().to(log_right.device)
        log_click = log_examined.to(clicked.device) + functional.logsigmoid(network.logits(features))
        log_click = log_click.clamp(max=-1e-6)  # during the search the propensity may be above 1
        log_none = torch.log(-torch.expm1(log_click))
        loss = -(clicked * log_click + (1 - clicked) * log_none).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append([parameter.item() for parameter in estimated])
    means = [float(np.mean(values)) for values in zip(*seen[3 * len(seen) // 4 :], strict=True)]
    return Examination(max(0.0, means[0]), *(float(np.exp(mean)) for mean in means[1:]))
