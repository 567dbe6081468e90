"""Private interfaces of transformers, accelerate, sentence-transformers and torch that we use.

Each use is only here, with the version it was last checked in, and has a test that fails if upstream changes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Make a process train on one GPU, whatever GPUs it sees (`_n_gpu`, transformers 5.23).

    The trainer would split batches over all GPUs. One step would then take as many batches (one epoch would cover
    several of ours), and pictures would go to other GPUs than their prompts.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)


def load_best_model(trainer: Trainer) -> None:
    """Do what the trainer does at the end of training (`_load_best_model`, transformers 5.23)."""
    trainer._load_best_model()


@contextmanager
def without_autocast(model: torch.nn.Module) -> Iterator[None]:
    """Remove the autocast that accelerate puts around a model's `forward` (as its attribute, accelerate 1.15).

    A model is then validated by the scores that it will give later.
    """
    in_training = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if in_training is not None:
            model.forward = in_training


class SentenceTrainerMixin:
    """Mixin for a sentence-transformers trainer (6.2): no model card, forked workers, an error without the best model.

    Their `_load_best_model` only logs the error and continues. Their loaders ignore
    `dataloader_multiprocessing_context`.
    """

    state: Any

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do nothing: the callback would treat examples as texts and query the hub."""

    def get_train_dataloader(self) -> Any:
        """Return the loader, with workers that share the memory of this process."""
        loader = super().get_train_dataloader()  # type: ignore[misc]
        if loader.num_workers:
            loader.multiprocessing_context = "fork"
            loader.worker_init_fn = _tokenize_in_one_thread
        return loader

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)  # type: ignore[attr-defined]


def _tokenize_in_one_thread(worker: int) -> None:
    """Tell tokenizers, which warn in a forked process else, that this worker has no threads."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def route_of(router: Any, task: str, modality: str = "text") -> str:
    """Return the name of the route for inputs of a task (`Router._resolve_route`, sentence-transformers 6.2).

    Raises:
        ValueError: if the router has no route for the task.
    """
    route: str = router._resolve_route(task=task, modality=modality)
    return route


def cpu_computes_bf16() -> bool:
    """Return whether this machine's CPU supports bfloat16 natively (`torch.cpu._is_...`, torch 2.13)."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
