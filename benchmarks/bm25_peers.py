"""BM25: ours against bm25s alone, tantivy, Lucene, and jieba + rank_bm25, on the same notes and queries in one run.

Building is from the texts of the notes to an index that can be searched; a query is a text, of which the best 100
notes are wanted. Our 100 are compared with those of bm25s's Lucene method: the same, ties aside, with scores to 1e-4.
tantivy gets our terms, keeps lengths in one byte, and has k1 1.2 and b .75, so that only its times are compared.
rank_bm25 has another idf and other words, so that only its times are compared; it is given fewer queries, because it
is slow.
Lucene runs with `--anserini JAR`, a file in pyserini's package, by the `java` of JAVA_HOME (21 or newer). It gets our
terms and our k1 and b, and keeps lengths in one byte. Its build includes the start of Java; its query is a mean, from
the first to the last, in which Java still warms up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from bm25_corpus import queries_of, synthetic

from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore, load_dataset
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS
from qilin_rag.retrievers.bm25.retriever import BM25

K = 100
_LAUNCHED, _ENDED = "Launching Search Threads", "Total run time"
analyze = ANALYZERS["word"]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what comes of it."""
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


class Built(NamedTuple):
    """What a build took: by the clock, and of all cores."""

    wall_s: float
    cpu_s: float


def cpu_seconds() -> float:
    """What this process and its children that have ended have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def built(work: Callable[[], Any]) -> tuple[Built, Any]:
    """What it takes to build, and what comes of it."""
    before_s = cpu_seconds()
    wall_s, index = seconds(work)
    return Built(wall_s, cpu_seconds() - before_s), index


def each(search: Callable[[str], Any], queries: Sequence[str]) -> tuple[list[float], list[Any]]:
    """How long each query takes, and what it finds."""
    took, found = [], []
    for query in queries:
        query_s, hits = seconds(partial(search, query))
        took.append(query_s)
        found.append(hits)
    return took, found


def build_bm25s(notes: NoteStore) -> Any:
    """bm25s with our terms."""
    import bm25s

    vocabulary: dict[str, int] = {"": 0}
    corpus = [[vocabulary.setdefault(term, len(vocabulary)) for term in analyze(note.text)] for note in notes]
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index((corpus, vocabulary), show_progress=False)
    return index


def search_bm25s(index: Any, query: str) -> Any:
    """Places and scores of the best."""
    return index.retrieve([analyze(query)], k=K, show_progress=False)


def build_tantivy(notes: NoteStore) -> Any:
    """tantivy with our terms, split at spaces."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("note_idx", stored=True)
    builder.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    index = tantivy.Index(builder.build())
    writer = index.writer(heap_size=256_000_000)
    for note in notes:
        writer.add_document(tantivy.Document(note_idx=note.note_idx, text=" ".join(analyze(note.text))))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return index


def search_tantivy(index: Any, query: str) -> Any:
    """Ids of the best."""
    import tantivy

    terms = [tantivy.Query.term_query(index.schema, "text", term) for term in analyze(query)]
    searcher = index.searcher()
    wanted = tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
    return [searcher.doc(place)["note_idx"] for _, place in searcher.search(wanted, K, count=False).hits]


def java(jar: Path, main: str, *words: str) -> str:
    """Run a program of Anserini; what it logs."""
    home = os.environ.get("JAVA_HOME")
    command = [f"{home}/bin/java" if home else "java", "-cp", str(jar), f"io.anserini.{main}", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def build_lucene(jar: Path, notes: NoteStore, folder: Path) -> None:
    """Lucene with our terms, split at spaces, on all cores."""
    (folder / "notes").mkdir(parents=True)
    with (folder / "notes" / "notes.json").open("w") as lines:
        for note in notes:
            print(json.dumps({"id": str(note.note_idx), "contents": " ".join(analyze(note.text))}), file=lines)
    words = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-pretokenized"]
    words += ["-threads", str(os.cpu_count()), "-input", str(folder / "notes"), "-index", str(folder / "index")]
    java(jar, "index.IndexCollection", *words)


def search_lucene(jar: Path, folder: Path, queries: Sequence[str]) -> float:
    """Seconds a query, one after the other."""
    lines = (f"{number}\t{' '.join(analyze(query))}\n" for number, query in enumerate(queries))
    (folder / "queries.tsv").write_text("".join(lines))
    words = ["-index", str(folder / "index"), "-topics", str(folder / "queries.tsv"), "-topicReader", "TsvString"]
    words += ["-bm25", "-bm25.k1", "0.9", "-bm25.b", "0.4", "-hits", str(K), "-pretokenized", "-threads", "1"]
    log = java(jar, "search.SearchCollection", *words, "-output", str(folder / "run.txt"))
    stamps = [re.search(rf"^(\S+ \S+) .*{what}", log, re.MULTILINE) for what in (_LAUNCHED, _ENDED)]
    launched, ended = (datetime.fromisoformat(stamp[1].replace(",", ".")) for stamp in stamps if stamp)
    return (ended - launched).total_seconds() / len(queries)


def build_rank_bm25(notes: NoteStore) -> Any:
    """What tutorials do."""
    import jieba
    from rank_bm25 import BM25Okapi

    return BM25Okapi([jieba.lcut(note.text) for note in notes])


def search_rank_bm25(index: Any, query: str) -> Any:
    """Places of the best."""
    import jieba

    return np.argsort(-index.get_scores(jieba.lcut(query)))[:K]


def check(rankings: Sequence[Sequence[Hit]], index: Any, queries: Sequence[str], notes: NoteStore) -> int:
    """Stop where a ranking is not that of bm25s, ties aside; how many notes were compared."""
    places = {note_idx: place for place, note_idx in enumerate(notes.note_idxs.tolist())}
    n_compared = 0
    for hits, query in zip(rankings, queries, strict=True):
        ids = index.get_tokens_ids(analyze(query))
        scores = index.get_scores_from_ids(ids) if ids else np.zeros(len(notes))
        expected = np.sort(scores[scores > 0])[::-1][:K]
        ours = np.array([hit.score for hit in hits])
        theirs = scores[[places[hit.note_idx] for hit in hits]]
        if len(ours) != len(expected) or np.abs([ours - expected, ours - theirs]).max(initial=0) > 1e-4:
            raise SystemExit(f"query {query!r}: not the ranking of bm25s")
        n_compared += len(hits)
    return n_compared


def compared(name: str, build: Built, query_s: Sequence[float], ours: tuple[Built, float] | None = None) -> None:
    """A line of the table."""
    line = f"{name:20} build {build.wall_s:7.1f} s (CPU {build.cpu_s:6.1f} s)"
    line += f"   query {median(query_s) * 1000:8.2f} ms (median of {len(query_s):,})"
    if ours:
        faster = build.wall_s / ours[0].wall_s, build.cpu_s / ours[0].cpu_s, median(query_s) / ours[1]
        line += f"   ours {faster[0]:.1f} (CPU {faster[1]:.1f}) and {faster[2]:.1f} times as fast"
    print(line, flush=True)


def main() -> None:
    """Print a line a peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--slow-queries", type=int, default=20, help="for rank_bm25")
    parser.add_argument("--anserini", type=Path, metavar="JAR", help="anserini-*-fatjar.jar, for Lucene")
    parser.add_argument("--folder", type=Path, help="where the synthetic notes are kept for the next run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = synthetic(options.folder or Path(temporary), options.notes, options.queries)
        notes, queries = load_dataset(str(corpus)).notes, queries_of(corpus, options.queries)
        print(f"{len(notes):,} notes, {len(queries):,} queries, the best {K}; analyzer word", flush=True)
        bm25 = BM25(index=Path(temporary) / "index")
        build, _ = built(lambda: bm25.write_index(notes, Path(temporary) / "index"))

        def search(*some: str) -> list[list[Hit]]:
            return bm25.search([Question(id=query, query=query, references=["-"]) for query in some], notes, K)

        search(queries[0])
        took, rankings = each(search, queries)
        ours = build, median(took)
        compared("ours", build, took)
        all_s, again = seconds(lambda: search(*queries))
        if [[hits] for hits in again] != rankings:
            raise SystemExit("many queries at once are ranked otherwise")
        print(f"{'':20} all at once: {len(queries) / all_s:,.0f} queries/s")
        theirs, index = built(lambda: build_bm25s(notes))
        compared("bm25s", theirs, each(partial(search_bm25s, index), queries)[0], ours)
        print(f"{'':20} the same rankings, ties aside: {check(again, index, queries, notes):,} hits")
        del index
        try:
            import tantivy  # noqa: F401
        except ImportError:
            print("tantivy is not installed: pip install tantivy")
        else:
            theirs, index = built(lambda: build_tantivy(notes))
            compared("tantivy", theirs, each(partial(search_tantivy, index), queries)[0], ours)
            del index
        if options.anserini:
            folder = Path(temporary) / "lucene"
            theirs, _ = built(lambda: build_lucene(options.anserini, notes, folder))
            compared("Lucene", theirs, [search_lucene(options.anserini, folder, queries)] * len(queries), ours)
        else:
            print("Lucene needs --anserini JAR")
        try:
            import jieba
            import rank_bm25  # noqa: F401
        except ImportError as error:
            sys.exit(f"{error.name} is not installed: pip install jieba rank_bm25")
        jieba.setLogLevel("ERROR")
        jieba.initialize()
        theirs, index = built(lambda: build_rank_bm25(notes))
        took, _ = each(partial(search_rank_bm25, index), queries[: options.slow_queries])
        compared("jieba + rank_bm25", theirs, took, ours)


if __name__ == "__main__":
    main()
