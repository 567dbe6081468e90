"""What we use of transformers, accelerate, sentence-transformers and torch that they call private.

Each is here alone, with the version it was last seen in, and has a test that fails when upstream changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Have a process train on one GPU, whatever it sees (`_n_gpu`, transformers 5.23).

    The trainer would split batches over all of them, so a step would take as many batches (an epoch of ours would be
    several), and pictures would go to other GPUs than their prompts.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)


def load_best_model(trainer: Trainer) -> None:
    """Do what the trainer does at the end of training (`_load_best_model`, transformers 5.23)."""
    trainer._load_best_model()


@contextmanager
def without_autocast(model: torch.nn.Module) -> Iterator[None]:
    """Take the autocast away that accelerate puts around a model's `forward` (as its attribute, accelerate 1.15).

    So a model is judged by the scores that it will give.
    """
    in_training = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if in_training is not None:
            model.forward = in_training


class NoModelCardMixin:
    """Stands before a trainer of sentence-transformers (6.2): no model card, and no last model taken for the best.

    `_load_best_model` of theirs logs what went wrong, and goes on.
    """

    state: Any

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do nothing: it would take the examples for texts, and ask the hub for the base model."""

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)  # type: ignore[attr-defined]


def route_of(router: Any, task: str) -> str:
    """Return the name of the route that texts of a task take (`Router._resolve_route`, sentence-transformers 6.2).

    Raises:
        ValueError: the router has none for it.
    """
    route: str = router._resolve_route(task=task, modality="text")
    return route


def cpu_computes_bf16() -> bool:
    """Whether this machine's CPU computes in bfloat16 itself (`torch.cpu._is_...`, torch 2.13)."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
