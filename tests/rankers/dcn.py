"""A DCN-V2 that trains in seconds, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_rag.rankers import load_ranker
from qilin_rag.rankers.dcn_v2 import DCNV2, Tables
from tests.rankers.conftest import Made

COUNTS = {"notes": 800, "searches": 400, "recommendations": 600, "dqa": 20, "users": 30}
TABLES = Tables(
    user_idx=(64, 8),
    location=(64, 4),
    taxonomy1_id=(64, 8),
    taxonomy2_id=(128, 8),
    taxonomy3_id=(256, 16),
    note_idx=(1024, 16),
)


def small(**settings: Any) -> DCNV2:
    """A network that trains in seconds."""
    given: dict[str, Any] = {
        "tables": TABLES,
        "hidden": (64, 64),
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "embedding_learning_rate": 1e-2,
        "batch_size": 256,
        "warmup_steps": 10,
        "patience": 99,
        "device": "cpu",
    }
    return DCNV2(**given | settings)


def trained(ranker: DCNV2, made: Made, out: Path, task: Any = "recommendation") -> Any:
    from qilin_rag.rankers.training import train_ranker

    train_ranker(ranker, made.requests(task, "train"), made.requests(task, "validation"), made.catalogue, out)
    return load_ranker(out, device="cpu")
