"""BM25 by the number of notes: time and memory to build, time to open, and time of a query.

Each size is built and searched in a process of its own, whose peak memory is summed with that of its children (PSS,
by /proc: Linux only). Converting the notes for random access, once a corpus, is not part of the build. No peer: those
are in bm25_peers.py. `--before CHECKOUT` does the same by another version of this package, in turns, and compares the
hits. `--all-searches` also finds the best 100 for every search of the corpus in one call, as a full run does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bm25_corpus import queries_of, searches_of, synthetic
from peak_memory import in_a_process

from qilin_rag.core.types import Hit, Question
from qilin_rag.data import load_dataset
from qilin_rag.retrievers.bm25.retriever import BM25

FULL = 28_494  # queries of a corpus of 57,188 searches, as many as Qilin has


def asked(queries: Sequence[str]) -> list[Question]:
    """Questions without answers."""
    return [Question(id=str(i), query=query, references=["-"]) for i, query in enumerate(queries)]


def hash_of(rankings: Sequence[Sequence[Hit]]) -> str:
    """A hash of notes and scores, which are alike to a millionth."""
    found = [[(hit.note_idx, round(hit.score, 6)) for hit in ranking] for ranking in rankings]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def measure(corpus: Path, folder: Path, n_queries: int, all_searches: bool) -> dict[str, float | str]:
    """One size, in this process."""
    notes = load_dataset(str(corpus)).notes
    queries = queries_of(corpus, n_queries)
    questions = asked(queries)
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
        before = time.process_time()  # of one thread; other work on the machine does not count
        bm25.search([question], notes, 100)
        took.append(time.process_time() - before)
    before = time.perf_counter()
    found = bm25.search(questions, notes, 100)
    per_s = len(questions) / (time.perf_counter() - before)
    batch: dict[str, float | str] = {}
    if all_searches:
        searches = asked(searches_of(corpus))
        before = time.perf_counter()
        bm25.search(searches, notes, 100)
        batch = {"n_searches": len(searches), "searches_s": time.perf_counter() - before}
    return {
        "n_notes": len(notes),
        "build_s": build_s,
        "cpu_s": cpu_s,
        "open_s": open_s,
        "p50_ms": float(np.percentile(took, 50)) * 1000,
        "p99_ms": float(np.percentile(took, 99)) * 1000,
        "per_s": per_s,
        "n_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "hits": hash_of(found),
        **batch,
    }


def measured(corpus: Path, folder: Path, options: argparse.Namespace, checkout: Path | None = None) -> dict[str, Any]:
    """One size, in a process of its own."""
    words = ["--measure", str(corpus), str(folder), "--queries", str(options.queries)]
    words += ["--all-searches"] if options.all_searches else []
    return in_a_process(__file__, *words, checkout=checkout)


def printed(found: dict[str, Any]) -> None:
    """Print a line of the table."""
    speed = found["n_notes"] / found["build_s"]
    print(
        f"{found['n_notes']:9,} {found['build_s']:5.0f} s {found['cpu_s']:5.0f} s {speed:9,.0f} "
        f"{found['peak_bytes'] / 1e9:4.2f} GB {found['n_bytes'] / 1e9:4.2f} GB {found['open_s']:5.2f} s "
        f"{found['p50_ms']:5.1f} ms {found['p99_ms']:5.1f} ms {found['per_s']:6,.0f} queries/s",
        flush=True,
    )
    if "searches_s" in found:
        per_s = found["n_searches"] / found["searches_s"]
        print(f"          {found['n_searches']:,} searches in {found['searches_s']:.0f} s: {per_s:,.0f}/s", flush=True)


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", default="125000,250000,500000,1000000,2000000", help="sizes, with commas")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="where the synthetic notes are kept for the next run")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another version, measured in turns")
    parser.add_argument("--all-searches", action="store_true", help="also every search of the corpus, in one call")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        corpus, folder = options.measure
        print(json.dumps(measure(corpus, folder, options.queries, options.all_searches)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        print("    notes   build     CPU   notes/s    peak   index    open      p50      p99   all at once", flush=True)
        for n_notes in map(int, options.notes.split(",")):
            n_queries = max(options.queries, FULL) if options.all_searches else options.queries
            corpus = synthetic(options.folder or Path(temporary), n_notes, n_queries)
            load_dataset(str(corpus))  # converts the notes
            found = measured(corpus, Path(temporary) / f"index-{n_notes}", options)
            printed(found)
            if options.before:
                earlier = measured(corpus, Path(temporary) / f"before-{n_notes}", options, options.before)
                printed(earlier)
                ratios = [earlier[name] / found[name] for name in ("build_s", "cpu_s", "p99_ms", "per_s")]
                same = "the same hits" if found["hits"] == earlier["hits"] else "OTHER HITS"
                print(
                    "          before / now: build {:.2f}, its CPU {:.2f}, p99 {:.2f}, queries/s {:.2f};".format(
                        *ratios
                    ),
                    same,
                )


if __name__ == "__main__":
    main()
