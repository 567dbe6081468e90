"""A small corpus, in which one can tell by a note's title whether it is clicked in `made_requests`.

As a program it trains a bi-encoder on it, alone or as one of several processes: small_corpus.py DATA MODEL OUT SETTINGS
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from qilin_rag.data import load_dataset
from qilin_rag.data.catalogue import Catalogue
from tests.conftest import write_jsonl
from tests.rankers.made import made_requests

CHARACTERS = "咖啡茶水果面包牛奶鸡蛋米饭"
N_NOTES = 40


def write_small_corpus(folder: Path) -> Path:
    """40 notes; the first quarter is called otherwise than the others."""
    rng = np.random.default_rng(0)
    titles = ["好"] * (N_NOTES // 4) + ["坏"] * (N_NOTES - N_NOTES // 4)
    rows = [
        {"note_idx": i, "title": title, "content": "".join(rng.choice(list(CHARACTERS), 5))}
        for i, title in enumerate(titles)
    ]
    folder.mkdir(parents=True)
    write_jsonl(folder / "notes.jsonl", rows)
    write_jsonl(folder / "dqa.jsonl", [{"search_idx": 0, "query": "q", "answers": ["a"], "ref_note_idx_list": [0]}])
    return folder


def small_catalogue(folder: Path) -> Catalogue:
    """Its notes."""
    return Catalogue(load_dataset(str(folder)).notes)


def train_small(data: Path, model: Path, out: Path, settings: dict[str, Any]) -> None:
    """Train a bi-encoder from `model`."""
    from qilin_rag.rankers.biencoder import BiEncoder
    from qilin_rag.rankers.training import train_ranker

    ranker = BiEncoder(model=str(model), **settings)
    train_ranker(ranker, made_requests(), made_requests(20, seed=5), small_catalogue(data), out)


def be_late() -> None:
    """Load the best model when the first process may have cleared up."""
    from qilin_rag.rankers.sentence_trainer import Strict

    load = Strict._load_best_model

    def load_late(trainer: Strict) -> None:
        time.sleep(3)
        load(trainer)

    Strict._load_best_model = load_late  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    if os.environ.get("RANK") == "1":
        be_late()
    given = [Path(word) for word in sys.argv[1:4]]
    train_small(given[0], given[1], given[2], json.loads(sys.argv[4]))
