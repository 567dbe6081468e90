"""Logs in which ids tell the clicks, and every ranker where there is nothing else to go by: all notes are alike.

`benchmarks/id_leak.py` prints their figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qilin_rag.data import NoteStore
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import concat
from qilin_rag.data.notes import open_notes
from qilin_rag.data.requests import Floats, Requests, Split, TaskName, read_table, table_of
from qilin_rag.data.source import open_source
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.bm25 import BM25
from qilin_rag.rankers.metrics import RankedGroups
from qilin_rag.rankers.popularity import ItemToItem, Popularity
from qilin_rag.rankers.simple import Production, Random
from qilin_rag.rankers.split_log import click_log
from tests.conftest import write_jsonl

TASKS: dict[str, tuple[TaskName, Split]] = {
    "search": ("search", "test"),
    "dqa": ("search", "dqa"),
    "recommendation": ("recommendation", "test"),
}
TEXT = "咖啡馆的咖啡"
N_SHOWN = 12
_CHANCE_DRAWS = 1000


def write_leaky_tables(folder: Path, n_requests: int) -> Path:
    """Tables of requests whose clicked notes have the highest ids of all that were shown; the platform sorts by id.

    The notes of the train tables are others than those of search_test, dqa and recommendation_test.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    tables = ("search_train", "recommendation_train", "search_test", "dqa", "recommendation_test")
    for number, name in enumerate(tables):
        first = 0 if name.endswith("train") else 10_000  # notes that train does not know, above those that it does
        is_search = not name.startswith("rec")
        rows = []
        for i in range(n_requests):
            notes = np.sort(rng.choice(5000, N_SHOWN, replace=False)) + first
            n_clicked = int(rng.integers(1, 4))
            stamp = 1_700_000_000 + i
            details = [
                {
                    "note_idx": int(note),
                    "position": place + 1,
                    "click": int(place >= N_SHOWN - n_clicked),
                    **({"search_timestamp": stamp} if is_search else {"request_timestamp": stamp * 1000}),
                }
                for place, note in enumerate(notes)
            ]
            key, column = ("search_idx", "search") if is_search else ("request_idx", "rec")
            answer = {"dqa_output": "好", "ref_note_idx_list": [int(notes[-1])]} if name == "dqa" else {}
            rows.append(
                {
                    key: 100_000 * number + i,
                    "query": f"咖啡{i}",
                    "user_idx": i % 7,
                    "session_idx": i,
                    "recent_clicked_note_idxs": rng.choice(5000, 3).tolist(),
                    f"{column}_result_details_with_idx": details,
                    **answer,
                }
            )
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def notes_of_one_text(folder: Path, *note_idxs: Any) -> NoteStore:
    """Notes with these ids, all alike."""
    rows = [{"note_idx": int(i), "title": "", "content": TEXT} for i in np.unique(np.concatenate(note_idxs))]
    return open_notes("jsonl", [write_jsonl(folder / "notes.jsonl", rows)])


def mean_mrr(requests: Requests, scores: Floats) -> float:
    """MRR@10 over the requests with a click."""
    return float(np.nanmean(RankedGroups(requests.offsets, scores, requests.clicked).figures()["mrr@10"]))


def chance(requests: Requests) -> tuple[float, float, float]:
    """MRR@10 of a random order: its mean, and the ends of 95% of random orders."""
    rng = np.random.default_rng(0)
    drawn = [mean_mrr(requests, rng.random(requests.n_candidates, np.float32)) for _ in range(_CHANCE_DRAWS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return mean_mrr(requests, np.zeros(requests.n_candidates, np.float32)), float(low), float(high)


class Models(NamedTuple):
    """Folders of tiny models, made by the other tests' helpers."""

    bert: Path
    vlm: Path

    @classmethod
    def write(cls, folder: Path) -> Models:
        from tests.rankers.random_vlm import write_tiny_vlm
        from tests.rankers.tiny_bert import write_tiny_bert

        return cls(write_tiny_bert(folder / "bert", [TEXT, "0123456789"]), write_tiny_vlm(folder / "vlm"))


def trained_rankers(models: Models) -> dict[str, Any]:
    """Each kind of ranker that is trained, with settings that make it quick."""
    from qilin_rag.rankers.biencoder import BiEncoder
    from qilin_rag.rankers.crossencoder import CrossEncoder
    from qilin_rag.rankers.sasrec import SASRec
    from qilin_rag.rankers.vlm import VLM
    from tests.rankers.dcn import small

    common: dict[str, Any] = {"optimizer": "adamw", "device": "cpu", "batch_size": 8, "max_steps": 2, "patience": 99}
    return {
        "biencoder": BiEncoder(model=str(models.bert), max_length=32, n_negatives=3, score_batch_size=7, **common),
        "crossencoder": CrossEncoder(model=str(models.bert), max_length=48, score_batch_size=7, **common),
        "vlm": VLM(
            model=str(models.vlm),
            max_length=64,
            max_pixels=784,
            without=["image"],
            four_bit=False,
            score_batch_size=7,
            **common,
        ),
        "sasrec": SASRec(width=16, **common | {"batch_size": 64, "max_steps": 10}),
        "dcn-v2": small(without=["user"], max_steps=10, batch_size=64, score_batch_size=50),
    }


def scores_of(
    train: Requests, validation: Requests, asked: Requests, notes: NoteStore, models: Models, folder: Path
) -> dict[str, Floats]:
    """What every ranker makes of the requests `asked`, trained where it is."""
    from qilin_rag.rankers import load_ranker
    from qilin_rag.rankers.training import train_ranker

    tables = [train, validation, asked]
    learns_from = [np.full(len(table), table is train) for table in tables]
    in_training = Catalogue(notes, clicks=click_log(tables[:2], learns_from[:2]))
    catalogue = Catalogue(notes, clicks=click_log(tables, learns_from))
    simple: list[tuple[str, Ranker]] = [("random", Random()), ("production", Production()), ("bm25", BM25())]
    simple += [("popularity", Popularity()), ("item-to-item", ItemToItem())]
    scores = {name: ranker.score(asked, catalogue) for name, ranker in simple}
    for name, ranker in trained_rankers(models).items():
        train_ranker(ranker, train, validation, in_training, folder / name)
        scores[name] = load_ranker(folder / name, device="cpu").score(asked, catalogue)
    return scores


def ranked_by_all(data: Path, folder: Path) -> Iterator[tuple[str, Requests, dict[str, Floats]]]:
    """Each of `TASKS` with its requests that have a click, and the scores of every ranker.

    They are trained on both train tables. All notes have one text, and nothing else.
    """
    source = open_source(str(data))
    trains = [read_table(source, f"{kind}_train") for kind in ("search", "recommendation")]
    train, validation = (
        concat([part.take(np.arange(len(part)) % 4 // 3 == which) for part in trains]) for which in (0, 1)
    )
    tables = [read_table(source, table_of(*TASKS[task])) for task in TASKS]
    asked = concat([part.take(part.n_clicked > 0) for part in tables])
    notes = notes_of_one_text(
        folder, *(part.note_idx for part in (train, validation, asked)), train.recent, asked.recent
    )
    scores = scores_of(train, validation, asked, notes, Models.write(folder / "models"), folder)
    ends = np.cumsum([0, *(int((part.n_clicked > 0).sum()) for part in tables)])
    for task, start, end in zip(TASKS, ends[:-1], ends[1:], strict=True):
        rows = slice(asked.offsets[start], asked.offsets[end])
        yield task, asked.take(np.arange(start, end)), {name: of_all[rows] for name, of_all in scores.items()}
