"""A small corpus, in which one can tell by a note's title whether it is clicked in `made_requests`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qilin_rag.data import load_dataset
from qilin_rag.data.catalogue import Catalogue
from tests.conftest import write_jsonl

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
