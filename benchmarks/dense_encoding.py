"""Encoding notes: ours against SentenceTransformer.encode, the same texts, device and run.

Turns alternate; medians of their times, the ratio, and the least cosine between both. The peer computes in fp32, as we
do; --as-stored adds one turn of the peer as it comes, in the type the weights are stored in, on --few texts: weights
in fp16 are slow on most CPUs. --backend adds our other encoders, and --precision says in what they compute. With
--questions, recall@5 of so many questions of the data is that of each encoder's vectors of notes; the vectors of
questions are those of torch in fp32, as in a run.

usage: python benchmarks/dense_encoding.py MODEL [--data DATA] [--notes 3000] [--turns 3] [--device cpu] [--as-stored]
    [--backend torch,onnx,openvino] [--precision int8] [--questions 0]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from qilin_rag.core.types import Question
from qilin_rag.data import load_dataset
from qilin_rag.models.exported import run_exported
from qilin_rag.models.pretrained import model_sha256, quiet_loading
from qilin_rag.models.sentence_encoder import encode, load_encoder
from qilin_rag.retrievers.dense.backends import least_cosine
from qilin_rag.retrievers.dense.retriever import BiEncoder

K = 5


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Its seconds by the clock and of CPU, and what it returns."""
    started, cpu_started = time.perf_counter(), time.process_time()
    made = work()
    return time.perf_counter() - started, time.process_time() - cpu_started, made


def recall(place: dict[int, int], questions: Sequence[Question], queries: Any, notes: Any) -> float:
    """The share of the questions' relevant notes among the K nearest, averaged over questions."""
    nearest = np.argsort(-(queries @ notes.T), axis=1, kind="stable")[:, :K]
    shares = []
    for question, rows in zip(questions, nearest.tolist(), strict=True):
        relevant = {place[note_idx] for note_idx in question.reference_notes}
        shares.append(len(relevant.intersection(rows)) / len(relevant))
    return float(np.mean(shares))


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--notes", type=int, default=3000, help="the notes again, where the data has fewer")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cuda, for one")
    parser.add_argument("--backend", default="torch", help="several with commas between them")
    parser.add_argument("--precision", default="int8", choices=["fp32", "int8"], help="of onnx and openvino")
    parser.add_argument("--questions", type=int, default=0, help="of those whose notes are encoded")
    parser.add_argument("--as-stored", action="store_true")
    parser.add_argument("--few", type=int, default=20)
    asked = parser.parse_args()
    data = load_dataset(asked.data)
    notes = [note.text for note in data.notes]
    # What is repeated differs at its end: we encode the same text once.
    texts = [f"{notes[i % len(notes)]}{i // len(notes) or ''}" for i in range(asked.notes)]
    identity = BiEncoder(model=asked.model).identity()
    prefix = identity["passage_prefix"]
    encoder = load_encoder(Path(asked.model), asked.model, asked.device, None, None)
    encoders = {}
    for backend in asked.backend.split(","):
        encoders[backend] = load_encoder(Path(asked.model), asked.model, asked.device, None, None)
        if backend != "torch":
            typical = [prefix + text for text in notes[32:64]]
            run_exported(
                encoders[backend], backend, asked.precision, model_sha256(Path(asked.model)), asked.model, typical
            )
    with quiet_loading():
        peer = SentenceTransformer(asked.model, device=asked.device)

    def ours(by: Any, some: list[str]) -> Any:
        return encode(by, some, prefix, task="document", normalize=True, batch_size=None, named=(asked.model, some))

    def theirs(some: list[str]) -> Any:
        return peer.encode(some, prompt=prefix, normalize_embeddings=True, show_progress_bar=False)

    stored = str(next(peer.parameters()).dtype).removeprefix("torch.")
    if asked.as_stored:
        stored_s, _, _ = timed(lambda: theirs(texts[: asked.few]))
        print(f"SentenceTransformer.encode in {stored:9} {asked.few / stored_s:8.1f} texts/s (one turn of {asked.few})")
    peer = peer.float()
    theirs(texts[:8])
    for by in encoders.values():
        ours(by, texts[:8])
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ("peer", *encoders)}
    vectors: dict[str, Any] = {}
    for _ in range(asked.turns):
        for name in turns:
            made = timed(lambda name=name: theirs(texts) if name == "peer" else ours(encoders[name], texts))  # type: ignore[misc]
            turns[name].append(made[:2])
            vectors[name] = made[2]
    spent = {name: np.median(of_one, axis=0) for name, of_one in turns.items()}
    lengths = [len(ids) for ids in encoder.tokenizer([prefix + text for text in texts], truncation=True)["input_ids"]]
    on_gpu = encoder.device.type == "cuda"
    device = torch.cuda.get_device_name(encoder.device) if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"{len(texts):,} texts, {np.mean(lengths):.0f} tokens on average, {device}")
    print(f"SentenceTransformer.encode in float32   {len(texts) / spent['peer'][0]:8.1f} texts/s")
    for name in encoders:
        called = "ours" if name == "torch" else f"ours by {name} in {asked.precision}"
        ratio, cpu_ratio = spent["peer"] / spent[name]
        print(f"{called:39} {len(texts) / spent[name][0]:8.1f} texts/s")
        print(f"ratio                                   {ratio:8.2f}, of CPU time {cpu_ratio:.2f}")
        print(f"least cosine                            {least_cosine(vectors[name], vectors['peer']):8.6f}")
    if asked.questions:
        place = {int(note_idx): i for i, note_idx in enumerate(data.notes.note_idxs[: asked.notes])}
        questions = [each for each in data.questions if place.keys() >= set(each.reference_notes)][: asked.questions]
        queries = encode(
            encoder,
            [question.query for question in questions],
            identity["query_prefix"],
            task="query",
            normalize=True,
            batch_size=None,
            named=(asked.model, [question.id for question in questions]),
        )
        print(f"recall@{K} of {len(questions)} questions among {len(place)} notes, by the vectors of notes of")
        for name, of_notes in vectors.items():
            print(f"  {name:37} {recall(place, questions, queries, of_notes[: len(place)]):8.4f}")


if __name__ == "__main__":
    main()
