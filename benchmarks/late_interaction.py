"""Late interaction on CMRC beside a bi-encoder and BM25, all from e5-small-zh: recall@5, MRR@10, CPU time and disk.

The token vectors of e5-small-zh are compared by MaxSim as they are. Nobody has trained them for that, so this shows
what it costs, and not what a trained ColBERT finds. Its scores are also compared with sentence-transformers' own.

usage: python benchmarks/late_interaction.py [OUT] [--questions 300] [--depth 20]
OUT keeps model and indexes; with QILIN_RAG_SHARED the data is elsewhere than in ../shared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from qilin_rag.core.types import Hit, Question
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.pipeline.answering import search
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.retrievers import IndexedRetriever
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.multivector.retriever import MultiVector

Rankings = Sequence[Sequence[Hit]]
N_COMPARED = 20  # questions whose scores are computed by sentence-transformers too


def write_untrained(encoder: Path, folder: Path) -> Path:
    """Save the token vectors of an encoder as a late-interaction model, without a projection or masks."""
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    if not folder.exists():
        torch.manual_seed(0)  # of a pooler, which is not used
        modules = [
            Transformer(str(encoder), document_length=512),
            MultiVectorMask(),
            Normalize(module_input_name="token_embeddings"),
        ]
        prompts = {"query": "query: ", "document": "passage: "}
        made = MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts)
        made.save_pretrained(str(folder), create_model_card=False)
    return folder


def largest_difference(model: Path, dataset: Dataset, questions: Sequence[Question], rankings: Rankings) -> float:
    """Compare scores of the first hits with `MultiVectorEncoder.similarity` in fp32, one pair at a time."""
    from sentence_transformers import MultiVectorEncoder

    encoder = MultiVectorEncoder(str(model), device="cpu").float()  # the weights are stored in fp16
    differences = []
    for question, hits in zip(questions, rankings, strict=True):
        [note] = dataset.notes.get([hits[0].note_idx])
        score = encoder.similarity(encoder.encode_query([question.query]), encoder.encode_document([note.text]))
        differences.append(abs(float(score) - hits[0].score))
    return max(differences)


def say(name: str, questions: Sequence[Question], seconds: float, rankings: Rankings) -> None:
    """Print the figures of one system."""
    places = [
        next((hit.rank for hit in hits[:10] if hit.note_idx in question.reference_notes), None)
        for question, hits in zip(questions, rankings, strict=True)
    ]
    recall = sum(place is not None and place <= 5 for place in places) / len(places)
    mrr = sum(1 / place for place in places if place) / len(places)
    print(f"{name}: recall@5 {recall:.4f}, MRR@10 {mrr:.4f}; {seconds:.0f} s of CPU", flush=True)


def timed(work: Callable[[], Rankings]) -> tuple[float, Rankings]:
    """Return the seconds of CPU that the work took, and its result."""
    started = time.process_time()
    rankings = work()
    return time.process_time() - started, rankings


def main() -> None:
    """Make the model and the indexes if they are missing, search, rerank, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--depth", type=int, default=20)
    asked = parser.parse_args()
    shared = Path(os.environ.get("QILIN_RAG_SHARED", "../shared"))
    out = asked.out or Path(tempfile.mkdtemp())
    os.environ.setdefault("QILIN_RAG_CACHE", str(out / "cache"))  # scores of pairs are kept there
    dataset = load_dataset(str(shared / "data" / "cmrc_dqa"))
    questions = dataset.questions[: asked.questions]
    encoder = shared / "models" / "e5-small-zh"
    model = write_untrained(encoder, out / "model")

    retrievers: dict[str, IndexedRetriever] = {
        "bi-encoder": BiEncoder(model=str(encoder), precision="fp32", index=out / "bi-encoder"),
        "multivector": MultiVector(model=str(model), index=out / "multivector"),
    }
    for name, retriever in retrievers.items():
        assert retriever.index is not None
        if not retriever.index.exists():
            started = time.process_time()
            retriever.write_index(dataset.notes, retriever.index)
            size = sum(path.stat().st_size for path in retriever.index.iterdir())
            print(
                f"{name}: {time.process_time() - started:.0f} s of CPU to index {len(dataset.notes)} notes, "
                f"{size / 1e6:.1f} MB"
            )
        seconds, found = timed(partial(search, retriever, dataset.notes, questions, 10))
        say(name, questions, seconds, found)
    some = questions[:N_COMPARED]
    differs = "largest difference from sentence-transformers:"
    print(differs, f"{largest_difference(model, dataset, some, found[:N_COMPARED]):.1e}")

    seconds, first = timed(lambda: search(BM25(), dataset.notes, questions, asked.depth))
    say("BM25", questions, seconds, first)
    reranker = Reranker.open(model, asked.depth)
    seconds, second = timed(lambda: reranker.rerank(questions, first, dataset.notes))
    say(f"the first {asked.depth} of BM25, reranked", questions, seconds, second)
    print(differs, f"{largest_difference(model, dataset, some, second[:N_COMPARED]):.1e}")


if __name__ == "__main__":
    main()
