"""What both benchmarks of BM25 search: notes of a synthetic Qilin, and the queries of its searches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

WRITE = """
import json, sys
from pathlib import Path
from qilin_rag.synth import resolve_world, synthesize
synthesize(resolve_world(json.loads(sys.argv[1]), seed=0), Path(sys.argv[2]))
"""


def synthetic(folder: Path, n_notes: int, n_queries: int) -> Path:
    """A corpus of so many notes, written where it is not there yet."""
    out = folder / f"notes-{n_notes}-queries-{n_queries}"
    if not out.exists():
        counts = {"notes": n_notes, "searches": 2 * n_queries + 200, "recommendations": 200, "dqa": 200, "users": 500}
        subprocess.run([sys.executable, "-c", WRITE, json.dumps(counts), str(out)], check=True)
    return out


def searches_of(corpus: Path) -> list[str]:
    """The query of each of its searches."""
    tables = (pq.read_table(path, columns=["query"]) for path in sorted(corpus.glob("search_*/*.parquet")))
    return [query for table in tables for query in table.column("query").to_pylist()]


def queries_of(corpus: Path, n_queries: int) -> list[str]:
    """So many queries of its searches, each once; fewer where there are no more."""
    return list(dict.fromkeys(searches_of(corpus)))[:n_queries]
