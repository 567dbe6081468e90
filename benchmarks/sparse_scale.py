"""Learned sparse retrieval by the number of notes: time and memory to build and to search, and time of a query.

The vectors are random. A note has some 120 terms, drawn without replacement from a vocabulary in which the n-th most
frequent term is drawn in proportion to 1 / n, and a query has 20 or 40 terms, drawn in the same way. This is harder
than a real model's vectors, which keep frequent terms out of queries: here each of the first twenty terms is in half of
all notes or more. Nothing is encoded, so the time to build is that of the index alone. Each size is built in one
process and searched in another. Peak memory counts the mapped pages of the index (PSS, by /proc: Linux only). No peer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peak_memory import in_a_process

from qilin_rag.core.types import Question
from qilin_rag.data import NoteStore, load_dataset
from qilin_rag.models.prefixes import Prefixes
from qilin_rag.models.sentence_encoder import Task
from qilin_rag.models.sparse_encoder import SparseVectors
from qilin_rag.retrievers.sparse.retriever import LearnedSparse

NOTE_TERMS = 120
QUERY_TERMS = (20, 40)
K = 100
QUESTION = {"search_idx": 1, "query": "1", "answers": ["-"], "ref_note_idx_list": [1]}


class SyntheticVectors(LearnedSparse):
    """Random vectors in place of a model's; those of a text depend on the number that it is."""

    n_terms: int

    def identity(self) -> dict[str, Any]:
        """The size of the vocabulary."""
        return {"synthetic": self.n_terms}

    def index_identity(self) -> dict[str, Any]:
        """The same: there is no model."""
        return self.identity()

    @cached_property
    def _shares(self) -> npt.NDArray[np.float64]:
        shares: npt.NDArray[np.float64] = 1 / np.arange(1, self.n_terms + 1)
        shares /= shares.sum()
        return shares

    @cached_property
    def _drawn(self) -> dict[int, npt.NDArray[np.int64]]:
        return {}

    @cached_property
    def _n_draws(self) -> int:
        """So many draws with replacement that a note has as many terms as it shall."""
        sizes = [(n, float(-np.expm1(n * np.log1p(-self._shares)).sum())) for n in range(NOTE_TERMS, 4 * NOTE_TERMS)]
        return min(sizes, key=lambda size: abs(size[1] - NOTE_TERMS))[0]

    def _prefixes(self) -> Prefixes:
        return Prefixes("", "")

    def _encode(self, texts: Sequence[str], task: Task, names: Sequence[str]) -> SparseVectors:
        rng = np.random.default_rng([int(text) for text in texts])
        if task == "query":
            drawn = [self.query_terms(int(text)) for text in texts]
            rows = np.repeat(np.arange(len(texts)), [len(terms) for terms in drawn])
            terms = np.concatenate(drawn)
        else:
            drawn_at = np.searchsorted(np.cumsum(self._shares), rng.random((len(texts), self._n_draws)))
            terms = np.minimum(drawn_at, self.n_terms - 1) + np.arange(len(texts))[:, None] * self.n_terms
            drawn_once = np.sort(terms, axis=None)
            rows, terms = np.divmod(drawn_once[np.diff(drawn_once, prepend=-1) > 0], self.n_terms)
        indptr = np.searchsorted(rows, np.arange(len(texts) + 1))
        weights = rng.gamma(2, 0.4, len(terms)).astype(np.float32)
        return SparseVectors(indptr, terms.astype(np.int32), weights, self.n_terms)

    def query_terms(self, seed: int) -> npt.NDArray[np.int64]:
        """As many as the seed says, which is a multiple of 1,000 and their number; drawn once."""
        if seed not in self._drawn:
            drawn = np.random.default_rng(seed).choice(self.n_terms, seed % 1000, replace=False, p=self._shares)
            self._drawn[seed] = np.sort(drawn)
        return self._drawn[seed]


def write_notes(folder: Path, n_notes: int) -> Path:
    """A corpus whose notes are numbers."""
    folder.mkdir()
    with (folder / "notes.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f'{{"note_idx": {i}, "title": "", "content": "{i}"}}\n' for i in range(n_notes))
    (folder / "dqa.jsonl").write_text(json.dumps(QUESTION), encoding="utf-8")
    return folder


def build(notes: NoteStore, folder: Path, n_terms: int) -> dict[str, Any]:
    """Build an index, in this process."""
    started = time.perf_counter()
    SyntheticVectors(n_terms=n_terms).write_index(notes, folder)
    return {"build_s": time.perf_counter() - started, "n_bytes": sum(path.stat().st_size for path in folder.iterdir())}


def search(notes: NoteStore, folder: Path, n_terms: int, n_queries: int) -> dict[str, Any]:
    """Search an index, in this process: each query alone, then all at once."""
    retriever = SyntheticVectors(n_terms=n_terms, index=folder)
    started = time.perf_counter()
    index = retriever.open_index(notes)
    found: dict[str, Any] = {"open_s": time.perf_counter() - started}
    for n in QUERY_TERMS:
        seeds = [1000 * (i + 1) + n for i in range(n_queries)]
        questions = [Question(id=str(seed), query=str(seed), references=["-"]) for seed in seeds]
        retriever.search(questions[:10], notes, K)
        retriever.search(questions, notes, K)  # so that its postings are in memory
        took, cpu = [], []
        for question in questions:
            before, cpu_before = time.perf_counter(), time.process_time()
            retriever.search([question], notes, K)
            took.append(time.perf_counter() - before)
            cpu.append(time.process_time() - cpu_before)
        before = time.perf_counter()
        retriever.search(questions, notes, K)
        counts = np.diff(index.indptr)
        found[str(n)] = {
            "p50_ms": float(np.percentile(took, 50)) * 1000,
            "p99_ms": float(np.percentile(took, 99)) * 1000,
            "cpu_ms": float(np.percentile(cpu, 50)) * 1000,
            "per_s": n_queries / (time.perf_counter() - before),
            "postings": float(np.median([counts[retriever.query_terms(seed)].sum() for seed in seeds])),
        }
    return found


def main() -> None:
    """Print a line a size and a vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", default="250000,2000000", help="sizes, with commas")
    parser.add_argument("--terms", default="30522,250002", help="sizes of the vocabulary, with commas")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where indexes are written; default: a temporary folder")
    parser.add_argument("--part", choices=("build", "search"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        [n_terms] = map(int, options.terms.split(","))
        notes = load_dataset(str(options.folder)).notes
        index = options.folder / f"index-{n_terms}"
        made = (
            build(notes, index, n_terms) if options.part == "build" else search(notes, index, n_terms, options.queries)
        )
        print(json.dumps(made))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for n_notes in map(int, options.notes.split(",")):
            corpus = write_notes(Path(temporary) / str(n_notes), n_notes)
            load_dataset(str(corpus))  # converts the notes
            for n_terms in options.terms.split(","):
                words = ["--folder", str(corpus), "--terms", n_terms, "--queries", str(options.queries)]
                built, searched = (in_a_process(__file__, "--part", part, *words) for part in ("build", "search"))
                print(
                    f"{n_notes:,} notes, {int(n_terms):,} terms: built in {built['build_s']:.0f} s with "
                    f"{built['peak_bytes'] / 1e9:.2f} GB, index {built['n_bytes'] / 1e9:.2f} GB, opened in "
                    f"{searched['open_s']:.2f} s, searched with {searched['peak_bytes'] / 1e9:.2f} GB",
                    flush=True,
                )
                for n in map(str, QUERY_TERMS):
                    of = searched[n]
                    print(
                        f"  {n} terms ({of['postings'] / 1e6:.1f} million postings): p50 {of['p50_ms']:.1f} ms, p99 "
                        f"{of['p99_ms']:.1f} ms ({of['cpu_ms']:.1f} ms of CPU), at once {of['per_s']:.0f} queries/s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
