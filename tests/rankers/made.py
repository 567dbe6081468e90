"""Small made-up requests, and a ranker small enough to train in no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qilin_rag.core.types import Hit, Question
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests, requests_of
from qilin_rag.rankers.trained import Recipe, TrainedRanker


def made_requests(n: int = 60, n_candidates: int = 8, seed: int = 0, n_notes: int = 40) -> Requests:
    """Requests whose clicks go by the note alone: the first quarter of all notes is clicked, wherever it stands."""
    rng = np.random.default_rng(seed)
    questions, rankings = [], []
    for i in range(n):
        notes = rng.choice(n_notes, n_candidates, replace=False).tolist()
        relevant = [note for note in notes if note < n_notes // 4]
        questions.append(Question(id=str(i), query=f"q{i}", references=["-"], reference_notes=relevant))
        rankings.append([Hit(note_idx=note, score=-float(rank), rank=rank) for rank, note in enumerate(notes, 1)])
    return requests_of(questions, rankings)


class Toy(TrainedRanker):
    """One number a note, learned by cross-entropy of clicks."""

    n_notes: int = 40
    dropout: float = 0.2
    learning_rate: float = 0.1

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        import torch
        from transformers import Trainer, TrainingArguments

        class Model(torch.nn.Module):  # type: ignore[misc]
            def __init__(self, n_notes: int, dropout: float) -> None:
                super().__init__()
                self.value = torch.nn.Embedding(n_notes, 1)
                self.dropout = torch.nn.Dropout(dropout)

            def forward(self, note: Any, labels: Any, **others: Any) -> Any:
                logit = self.dropout(self.value(note)).squeeze(-1)
                return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(logit, labels)}

        class Examples(torch.utils.data.Dataset):  # type: ignore[misc]
            def __len__(self) -> int:
                return train.n_candidates

            def __getitem__(self, row: int) -> dict[str, Any]:
                return {"note": int(train.note_idx[row]), "labels": float(train.clicked[row])}

        model = Model(self.n_notes, self.dropout)
        return Recipe(Trainer, TrainingArguments, model, model, Examples(), [{"params": list(model.parameters())}])

    def score_with(self, fitted: Any, requests: Requests, catalogue: Catalogue) -> Floats:
        import torch

        value = fitted["value"] if isinstance(fitted, torch.nn.ModuleDict) else fitted.value
        scores: Floats = value(torch.from_numpy(requests.note_idx)).squeeze(-1).numpy()
        return scores

    def save(self, fitted: Any, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(fitted.state_dict(), folder / "model.safetensors")

    def load(self, folder: Path) -> Any:
        import torch
        from safetensors.torch import load_file

        value = torch.nn.Embedding.from_pretrained(load_file(folder / "model.safetensors")["value.weight"])
        return torch.nn.ModuleDict({"value": value}).eval()


def candidates_of(requests: Requests) -> Sequence[tuple[str, Sequence[int]]]:
    """Each request's id and candidates."""
    parts = zip(requests.ids, requests.offsets[:-1], requests.offsets[1:], strict=True)
    return [(i, requests.note_idx[start:end].tolist()) for i, start, end in parts]
