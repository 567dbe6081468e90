"""BM25 by the number of notes: time and memory to build, time to open, and time of a query.

Each size is built and searched in a process of its own, whose peak memory is summed with that of its children (PSS,
by /proc: Linux only). Converting the notes for random access, once a corpus, is not part of the build. No peer: those
are in bm25_peers.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bm25_corpus import queries_of, synthetic
from peak_memory import in_a_process

from qilin_rag.core.types import Question
from qilin_rag.data import load_dataset
from qilin_rag.retrievers.bm25.retriever import BM25


def measure(corpus: Path, folder: Path, n_queries: int) -> dict[str, float]:
    """One size, in this process."""
    notes = load_dataset(str(corpus)).notes
    queries = queries_of(corpus, n_queries)
    questions = [Question(id=str(i), query=query, references=["-"]) for i, query in enumerate(queries)]
    started, before_s = time.perf_counter(), time.process_time()
    BM25().write_index(notes, folder)
    build_s = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(use.ru_utime + use.ru_stime for use in used) - before_s
    bm25, notes = BM25(index=folder), load_dataset(str(corpus)).notes
    started = time.perf_counter()
    bm25.open_index(notes)
    open_s = time.perf_counter() - started
    bm25.search(questions, notes, 100)
    bm25.search(questions, notes, 100)
    took = []
    for question in questions:
        before = time.perf_counter()
        bm25.search([question], notes, 100)
        took.append(time.perf_counter() - before)
    before = time.perf_counter()
    bm25.search(questions, notes, 100)
    return {
        "n_notes": len(notes),
        "build_s": build_s,
        "cpu_s": cpu_s,
        "open_s": open_s,
        "p50_ms": float(np.percentile(took, 50)) * 1000,
        "p99_ms": float(np.percentile(took, 99)) * 1000,
        "per_s": len(questions) / (time.perf_counter() - before),
        "n_bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }


def measured(corpus: Path, folder: Path, n_queries: int) -> dict[str, Any]:
    """One size, in a process of its own."""
    return in_a_process(__file__, "--measure", str(corpus), str(folder), "--queries", str(n_queries))


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", default="125000,250000,500000,1000000,2000000", help="sizes, with commas")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="where the synthetic notes are kept for the next run")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], options.measure[1], options.queries)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        print("    notes   build     CPU   notes/s    peak   index    open      p50      p99   all at once", flush=True)
        for n_notes in map(int, options.notes.split(",")):
            corpus = synthetic(options.folder or Path(temporary), n_notes, options.queries)
            load_dataset(str(corpus))  # converts the notes
            found = measured(corpus, Path(temporary) / f"index-{n_notes}", options.queries)
            speed = found["n_notes"] / found["build_s"]
            print(
                f"{found['n_notes']:9,} {found['build_s']:5.0f} s {found['cpu_s']:5.0f} s {speed:9,.0f} "
                f"{found['peak_bytes'] / 1e9:4.2f} GB {found['n_bytes'] / 1e9:4.2f} GB {found['open_s']:5.2f} s "
                f"{found['p50_ms']:5.1f} ms {found['p99_ms']:5.1f} ms {found['per_s']:6,.0f} queries/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
