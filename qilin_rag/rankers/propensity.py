"""Model how likely a position is looked at: position^-eta, with eta given or estimated from the clicks.

A click at a place that few look at stands for clicks that were not made there. Weighted by 1 / propensity, clicks count
as if every place were looked at (Joachims et al. 2017; Wang et al. 2018). For a loss of each candidate this is Saito et
al. (2020): cross-entropy against click / propensity, which is right on average at any position.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from qilin_rag.data.exposures import Ints
from qilin_rag.data.requests import Floats

N_POSITIONS = 34
"""Buckets of the position: 0 unknown, each of the first 20 (position 0, the top, with 1), four for each doubling."""
_SINGLE, _PER_DOUBLING = 20, 4
_EXPONENT_LEARNING_RATE = 0.02


def position_buckets(position: Ints) -> Ints:
    """Return the bucket of `N_POSITIONS` that each position is in; an unknown position is -1."""
    far = np.floor(_PER_DOUBLING * np.log2(np.maximum(position, _SINGLE) / _SINGLE)).astype(np.int64)
    near = np.where(position < 0, 0, np.clip(position, 1, _SINGLE))
    buckets: Ints = np.minimum(near + far, N_POSITIONS - 1)
    return buckets


def click_weights(position: Ints, exponent: float, most: float) -> Floats:
    """Return 1 / propensity, at most `most`: the limit removes variance, and leaves some bias.

    An unknown position has the weight 1, like the top: 0 or 1.
    """
    weights: Floats = np.minimum(np.maximum(position, 1).astype(np.float64) ** exponent, most).astype(np.float32)
    return weights


def estimate_exponent(
    network: Any, groups: list[dict[str, Any]], batches: Iterable[tuple[dict[str, Any], Any, Any]]
) -> float:
    """Estimate eta of P(click) = position^-eta sigmoid(f(x)) by maximum likelihood; `network`, which is trained, is f.

    The relevance must be in the features: if the platform ranks by something that they do not show, it counts as
    position.

    Args:
        network: The network f.
        groups: Its parameters with their learning rates for AdamW.
        batches: Features, clicks and positions.

    Returns:
        The mean of eta over the last quarter of the steps.
    """
    exponent = torch.nn.Parameter(torch.tensor(0.5))
    optimizer = torch.optim.AdamW([*groups, {"params": [exponent], "lr": _EXPONENT_LEARNING_RATE}], weight_decay=0.0)
    seen = []
    for features, clicked, position in batches:
        log_examined = -exponent * torch.log(position.clamp(min=1).float()).to(exponent.device)
        log_click = log_examined.to(clicked.device) + functional.logsigmoid(network.logits(features))
        log_click = log_click.clamp(max=-1e-6)  # during the search the exponent may be negative
        log_none = torch.log(-torch.expm1(log_click))
        loss = -(clicked * log_click + (1 - clicked) * log_none).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(exponent.item())
    return max(0.0, float(np.mean(seen[3 * len(seen) // 4 :])))
