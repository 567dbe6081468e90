"""Encoding notes: ours against SentenceTransformer.encode, the same texts, device and run.

Turns alternate; medians of their times, the ratio, and the least cosine between both. The peer computes in fp32, as we
do; --as-stored adds one turn of the peer as it comes, in the type the weights are stored in, on --few texts: weights
in fp16 are slow on most CPUs.

usage: python benchmarks/dense_encoding.py MODEL [--data DATA] [--notes 3000] [--turns 3] [--device cpu] [--as-stored]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from qilin_rag.data import load_dataset
from qilin_rag.models.pretrained import quiet_loading
from qilin_rag.models.sentence_encoder import encode, load_encoder
from qilin_rag.retrievers.dense.retriever import BiEncoder


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Its seconds by the clock and of CPU, and what it returns."""
    started, cpu_started = time.perf_counter(), time.process_time()
    made = work()
    return time.perf_counter() - started, time.process_time() - cpu_started, made


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--notes", type=int, default=3000, help="the notes again, where the data has fewer")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cuda, for one")
    parser.add_argument("--as-stored", action="store_true")
    parser.add_argument("--few", type=int, default=20)
    asked = parser.parse_args()
    notes = [note.text for note in load_dataset(asked.data).notes]
    # What is repeated differs at its end: we encode the same text once.
    texts = [f"{notes[i % len(notes)]}{i // len(notes) or ''}" for i in range(asked.notes)]
    prefix = BiEncoder(model=asked.model).index_identity()["passage_prefix"]
    encoder = load_encoder(Path(asked.model), asked.model, asked.device, None, None)
    with quiet_loading():
        peer = SentenceTransformer(asked.model, device=asked.device)

    how: Any = {"task": "document", "normalize": True, "batch_size": None, "named": (asked.model, texts)}

    def ours() -> Any:
        return encode(encoder, texts, prefix, **how)

    def theirs(some: list[str]) -> Any:
        return peer.encode(some, prompt=prefix, normalize_embeddings=True, show_progress_bar=False)

    stored = str(next(peer.parameters()).dtype).removeprefix("torch.")
    if asked.as_stored:
        stored_s, _, _ = timed(lambda: theirs(texts[: asked.few]))
        print(f"SentenceTransformer.encode in {stored:9} {asked.few / stored_s:8.1f} texts/s (one turn of {asked.few})")
    peer = peer.float()
    (
        theirs(texts[:8]),
        encode(encoder, texts[:8], prefix, task="document", normalize=True, batch_size=None, named=("", texts)),
    )
    turns = []
    for _ in range(asked.turns):
        theirs_s, theirs_cpu_s, expected = timed(lambda: theirs(texts))
        ours_s, ours_cpu_s, vectors = timed(ours)
        turns.append((theirs_s, ours_s, theirs_cpu_s, ours_cpu_s))
    theirs_s, ours_s, theirs_cpu_s, ours_cpu_s = np.median(turns, axis=0)
    lengths = [len(ids) for ids in encoder.tokenizer([prefix + text for text in texts], truncation=True)["input_ids"]]
    on_gpu = encoder.device.type == "cuda"
    device = torch.cuda.get_device_name(encoder.device) if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"{len(texts):,} texts, {np.mean(lengths):.0f} tokens on average, {device}")
    print(f"SentenceTransformer.encode in float32   {len(texts) / theirs_s:8.1f} texts/s")
    print(f"ours                                    {len(texts) / ours_s:8.1f} texts/s")
    print(
        f"ratio                                   {theirs_s / ours_s:8.2f}, of CPU time {theirs_cpu_s / ours_cpu_s:.2f}"
    )
    print(f"least cosine                            {float((vectors * expected).sum(axis=1).min()):8.6f}")


if __name__ == "__main__":
    main()
