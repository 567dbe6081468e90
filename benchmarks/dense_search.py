"""Nearest of many vectors: flat over two million in a child process (peak memory, time); ivf against flat.

Flat reads random unit vectors of 16 bits, made once in FOLDER. ivf is measured over real encodings where
--model names an encoder: windows of --chars characters of the notes of --data, made once in FOLDER (hours for large
--texts on a small machine; a build that was stopped resumes), and its questions as queries. Without --model they are
measured over random clusters, which are no texts.

usage: python benchmarks/dense_search.py FOLDER [--rows 2000000] [--model MODEL --data DATA --texts 50000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np

from qilin_rag.data import load_dataset
from qilin_rag.data.notes import open_notes
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.dense.search import (
    Neighbours,
    default_n_probe,
    opened_index,
    search_approximately,
    search_flat,
)

CHILD = """
import resource, sys, time
import numpy as np
from qilin_rag.retrievers.dense.search import search_flat
vectors = np.load(sys.argv[1], mmap_mode="r")
queries = np.random.default_rng(1).standard_normal((int(sys.argv[2]), vectors.shape[1])).astype(np.float32)
queries /= np.linalg.norm(queries, axis=1, keepdims=True)
started = time.perf_counter()
rankings, _ = search_flat(list(map(str, range(len(queries)))), queries, vectors, np.arange(len(vectors)), 100)
assert all(len(hits) == 100 for hits in rankings)
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
N_SINGLE = 300


def random_vectors(path: Path, n_rows: int, dimension: int, n_clusters: int = 0) -> Path:
    """Unit vectors as 16-bit floats, made block by block; around centres where there are clusters."""
    if not path.is_file():
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((n_clusters, dimension)) if n_clusters else np.zeros((1, dimension))
        temporary = path.with_suffix(".tmp")
        file = np.lib.format.open_memmap(temporary, "w+", np.float16, (n_rows, dimension))
        for start in range(0, n_rows, 65536):
            n = min(65536, n_rows - start)
            block = rng.standard_normal((n, dimension), np.float32) + centres[rng.integers(len(centres), size=n)]
            file[start : start + n] = block / np.linalg.norm(block, axis=1, keepdims=True)
        file.flush()
        temporary.replace(path)
    return path


def windows(texts: list[str], n: int, chars: int) -> list[str]:
    """Distinct windows of the texts, as far apart as gives `n` of them."""
    step = chars
    while True:
        found = dict.fromkeys(
            text[i : i + chars] for text in texts for i in range(0, max(1, len(text) - chars + 1), step)
        )
        if len(found) >= n:
            return list(found)[:n]
        if step == 1:
            sys.exit(f"--texts {n}: the notes have only {len(found)} windows of {chars} characters")
        step -= 1


def real_encodings(folder: Path, model: str, data: str, n: int, chars: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of windows of the notes, and of the questions."""
    dataset = load_dataset(data)
    corpus = folder / f"windows-{n}-{chars}"
    if not (corpus / "notes.jsonl").is_file():
        corpus.mkdir(parents=True, exist_ok=True)
        texts = windows([note.text for note in dataset.notes], n, chars)
        lines = [json.dumps({"note_idx": i, "note_title": "", "note_content": text}) for i, text in enumerate(texts)]
        (corpus / "notes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    encoder = BiEncoder(model=model, device="cpu")
    index = corpus / "index"
    if not index.is_dir():
        encoder.write_index(open_notes("jsonl", [corpus / "notes.jsonl"]), index)
    vectors = encoder.read_files(index).vectors
    return vectors, encoder.embed_queries([question.query for question in dataset.questions[:1000]])


def compare(kind: Neighbours, vectors: np.ndarray, queries: np.ndarray, folder: Path) -> None:
    """Print recall@100 against flat, and the ratio of times on one thread: of faiss alone, and of all we do."""
    started = time.perf_counter()
    index = opened_index(kind, vectors, folder)
    built_s = time.perf_counter() - started
    n_probe = default_n_probe(len(vectors))
    ids, whole, few = np.arange(len(vectors)), vectors[:].astype(np.float32), queries[:N_SINGLE]
    parameters = faiss.SearchParametersIVF(nprobe=n_probe)
    flat_s, kind_s = [], []
    for i in range(len(few)):  # in turn, one query at a time, as ann-benchmarks does
        query = few[i : i + 1]
        started = time.perf_counter()
        faiss.knn(query, whole, 100, metric=faiss.METRIC_INNER_PRODUCT)
        between = time.perf_counter()
        index.index.search(query, 100, params=parameters)
        flat_s.append(between - started)
        kind_s.append(time.perf_counter() - between)
    one, other = np.median(flat_s), np.median(kind_s)
    print(
        f"{kind}: {len(vectors):,} x {vectors.shape[1]}, n_probe {n_probe}, made or read in {built_s:.0f} s; one query "
        f"in {1000 * other:.2f} ms, flat in {1000 * one:.2f} ms, ratio {one / other:.1f}"
    )
    started = time.perf_counter()
    texts = list(map(str, range(len(queries))))
    exact, _ = search_flat(texts, queries, vectors, ids, 100)
    between = time.perf_counter()
    found, _ = search_approximately(texts, queries, vectors, ids, 100, index, n_probe)
    ended = time.perf_counter()
    pairs = zip(exact, found, strict=True)
    recall = np.mean([len({h.note_idx for h in a} & {h.note_idx for h in b}) / len(a) for a, b in pairs])
    at_once = f"{between - started:.2f} and {ended - between:.2f} s"
    print(f"{'':6}recall@100 {recall:.4f} over {len(queries)} queries; all at once, flat and {kind}: {at_once}")


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--model")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--chars", type=int, default=24)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.rows:
        path = random_vectors(asked.folder / f"random-{asked.rows}-{asked.dimension}.npy", asked.rows, asked.dimension)
        command = [sys.executable, "-c", CHILD, str(path), str(asked.queries)]
        took_s, peak_gb = map(float, subprocess.run(command, check=True, capture_output=True).stdout.split())
        print(
            f"flat: {asked.queries} queries over {asked.rows:,} x {asked.dimension}: {took_s:.1f} s, {peak_gb:.2f} GB"
        )
    if asked.model:
        vectors, queries = real_encodings(asked.folder, asked.model, asked.data, asked.texts, asked.chars)
        place = asked.folder / f"windows-{asked.texts}-{asked.chars}"
    else:
        place = asked.folder / f"clusters-{asked.texts}"
        place.mkdir(exist_ok=True)
        path = random_vectors(place / "vectors.npy", asked.texts, asked.dimension, n_clusters=asked.texts // 100)
        vectors = np.load(path, mmap_mode="r")
        rng = np.random.default_rng(1)
        queries = vectors[rng.choice(len(vectors), asked.queries)].astype(np.float32)
        queries += rng.standard_normal(queries.shape).astype(np.float32) * 0.02
    faiss.omp_set_num_threads(1)
    compare("ivf", vectors, queries[: asked.queries], place)


if __name__ == "__main__":
    main()
