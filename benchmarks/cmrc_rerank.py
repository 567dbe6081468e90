"""A cross-encoder fine-tuned on a CPU, reranking BM25's top 20 on CMRC: MRR@10 and the p of paired tests.

Tested on the first 1,000 questions. Trained on the others, on what BM25 finds for them, without any note that a test
question is about; a part of these is for validation. The model is the first layers of e5-small-zh; of each note it
reads the title and the 150 characters nearest to the question. Its order is taken alone, and by a weighted mean of both
scores, with the weight that is best on the validation questions.

usage: python benchmarks/cmrc_rerank.py [OUT]
OUT keeps the ranker, and a training that was stopped resumes there; with QILIN_RAG_SHARED the data is elsewhere than
in ../shared.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qilin_rag.core.stats import permutation_test
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.pipeline.answering import search
from qilin_rag.rankers.crossencoder import CrossEncoder
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.rankers.training import train_ranker
from qilin_rag.retrievers.bm25.retriever import BM25

N_TEST, N_VALIDATION, DEPTH, TRAIN_DEPTH, N_LAYERS = 1_000, 400, 20, 8, 6
WEIGHTS = [tenths / 10 for tenths in range(1, 10)]
SETTINGS = {
    "max_length": 128,
    "pooling": "mean",
    "passage_chars": 150,
    "n_negatives": 3,
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "schedule": "linear",
    "warmup_steps": 20,
    "batch_size": 24,
    "evaluate_every": 120,
    "device": "cpu",
}


def first_layers(model: Path, n_layers: int, folder: Path) -> Path:
    """The same encoder with fewer layers, as a model of its own."""
    from transformers import AutoModel, AutoTokenizer

    if not folder.exists():
        encoder = AutoModel.from_pretrained(model, add_pooling_layer=False).float()
        encoder.encoder.layer = encoder.encoder.layer[:n_layers]
        encoder.config.num_hidden_layers = n_layers
        encoder.save_pretrained(folder)
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def reciprocal_ranks(questions: Sequence[Question], rankings: Sequence[Sequence[Hit]]) -> np.ndarray:
    """At 10, of each question."""
    places = (
        next((hit.rank for hit in hits[:10] if hit.note_idx in question.reference_notes), np.inf)
        for question, hits in zip(questions, rankings, strict=True)
    )
    return np.array([1 / place for place in places])


def train_requests(dataset: Dataset, questions: Sequence[Question], without: set[int], with_all: bool) -> Requests:
    """The first notes of BM25 that no test question is about, `with_all` those that it missed."""
    rankings = []
    for question, hits in zip(questions, search(BM25(), dataset.notes, questions, 2 * TRAIN_DEPTH), strict=True):
        notes = [hit.note_idx for hit in hits if hit.note_idx not in without][:TRAIN_DEPTH]
        notes += [note for note in question.reference_notes if with_all and note not in notes]
        rankings.append([Hit(note_idx=note, score=-float(rank), rank=rank) for rank, note in enumerate(notes, 1)])
    return requests_of(questions, rankings)


def both_orders(
    reranker: Reranker, dataset: Dataset, questions: Sequence[Question]
) -> tuple[list[list[Hit]], list[list[Hit]]]:
    """The first of BM25, and these by the cross-encoder alone."""
    first = search(BM25(), dataset.notes, questions, DEPTH)
    return first, reranker.rerank(questions, first, dataset.notes)


def weighted(
    reranker: Reranker,
    weight: float,
    questions: Sequence[Question],
    alone: Sequence[Sequence[Hit]],
    first: Sequence[Sequence[Hit]],
) -> list[list[Hit]]:
    """By the weighted mean of both scores."""
    mixed = reranker._replace(weight=weight)
    return [
        mixed.beside(second, found, question.query)
        for question, second, found in zip(questions, alone, first, strict=True)
    ]


def main() -> None:
    """Train where that is not done, rerank, print."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    shared = Path(os.environ.get("QILIN_RAG_SHARED", "../shared"))
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    dataset = load_dataset(str(shared / "data" / "cmrc_dqa"))
    test, rest = dataset.questions[:N_TEST], dataset.questions[N_TEST:]
    of_test = {note for question in test for note in question.reference_notes}
    others = [question for question in rest if not of_test & set(question.reference_notes)]
    order = np.random.default_rng(0).permutation(len(others))
    validation, train = ([others[i] for i in part] for part in (order[:N_VALIDATION], order[N_VALIDATION:]))

    model = first_layers(shared / "models" / "e5-small-zh", N_LAYERS, out / "model")
    ranker = CrossEncoder(model=str(model), **SETTINGS)
    learned = train_requests(dataset, train, of_test, with_all=True)
    checked = train_requests(dataset, validation, of_test, with_all=False)
    trained = train_ranker(ranker, learned, checked, Catalogue(dataset.notes), out / "ranker")
    print(f"trained on {len(train)} questions, {trained.n_steps} steps, MRR@10 {trained.mrr_at_10:.4f} on validation")

    reranker = Reranker.open(out / "ranker", DEPTH)
    first, alone = both_orders(reranker, dataset, validation)
    on_validation = {
        weight: reciprocal_ranks(validation, weighted(reranker, weight, validation, alone, first)).mean()
        for weight in WEIGHTS
    }
    weight = max(on_validation, key=on_validation.__getitem__)
    print("on validation, by weight:", ", ".join(f"{key} {value:.4f}" for key, value in on_validation.items()))

    first, alone = both_orders(reranker, dataset, test)
    then = reciprocal_ranks(test, first)
    print(f"BM25: MRR@10 {then.mean():.4f} over {len(test)} questions")
    for name, rankings in (("alone", alone), (f"weight {weight}", weighted(reranker, weight, test, alone, first))):
        now = reciprocal_ranks(test, rankings)
        difference = now - then
        p = permutation_test(difference[:, None], np.arange(len(test)))[0]
        counts = f"better for {(difference > 0).sum()}, worse for {(difference < 0).sum()}"
        print(f"reranked, {name}: MRR@10 {now.mean():.4f}, p = {p:.5f}; {counts}")


if __name__ == "__main__":
    main()
