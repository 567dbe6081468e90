"""Define a vision-language model with adapters and a head for the probability of a click."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class ClickModel(nn.Module):  # type: ignore[misc]
    """Mean of the last hidden states over the tokens without padding, and a linear head, in single precision.

    Its state is what is trained, adapters and head, never the model below them.
    """

    def __init__(self, backbone: Any, hidden_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, labels: Any = None, **inputs: Any) -> dict[str, Any]:
        """Return `logits` (n,), and with `labels` (n,) the `loss`, binary cross-entropy."""
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            mask = inputs["attention_mask"][:, :, None].float()
            pooled = (hidden.float() * mask).sum(1) / mask.sum(1)
            logits = self.head(pooled).squeeze(-1)
            if labels is None:
                return {"logits": logits}
            return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Turn on activation checkpointing, for the trainer."""
        self.backbone.get_base_model().activation_checkpointing_enable(**settings)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what is trained."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` returned."""
        if state_dict.keys() != self.state_dict().keys():
            raise ValueError("these weights are of another model")
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        found.missing_keys.clear()
        return found
