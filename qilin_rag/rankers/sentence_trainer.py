"""What both trainers of sentence-transformers do otherwise here."""

from __future__ import annotations

from typing import Any


class Strict:
    """Before such a trainer: no model card, and an error where the best model can't be loaded."""

    state: Any

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """It would take the examples for texts, and ask the hub for the base model."""

    def _load_best_model(self) -> None:
        """Theirs logs what went wrong, and the last model would pass for the best."""
        self._load_from_checkpoint(self.state.best_model_checkpoint)  # type: ignore[attr-defined]
