"""What it takes to read all fields of some random notes out of two million: memory and time.

Writes a synthetic corpus in the layout of the hub (every column but the embedding), then opens it in a process of its
own, once with the conversion and once without, and prints that process's peak memory. The peer is pandas, which reads
the same parquet whole.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qilin_rag.data.schema import TABLES

READ = """
import resource, sys, time
import numpy as np
from qilin_rag.data import load_dataset
started = time.perf_counter()
notes = load_dataset(sys.argv[1]).notes
opened = time.perf_counter()
wanted = np.random.default_rng(0).choice(notes.note_idxs, int(sys.argv[2]), replace=False)
rows = notes.read(wanted.tolist()).to_pylist()
assert [row["note_idx"] for row in rows] == wanted.tolist()
done = time.perf_counter()
"""
PEER = """
import resource, sys, time
import numpy as np, pandas
started = time.perf_counter()
notes = pandas.read_parquet(sys.argv[1] + "/notes").set_index("note_idx")
opened = time.perf_counter()
rows = notes.loc[np.random.default_rng(0).choice(notes.index, int(sys.argv[2]), replace=False)].to_dict("records")
done = time.perf_counter()
"""
PRINT = """
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(peak_mb, opened - started, done - opened, len(rows), len(rows[0]))
"""


def write_corpus(folder: Path, n_notes: int) -> None:
    """Notes in five shards, and one question to make it a data set."""
    rng = np.random.default_rng(0)
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    texts = ["".join(rng.choice(characters, size)) for size in rng.integers(20, 600, 2000)]
    kinds = {name: kind for name, kind in TABLES["notes"].columns.items() if name != "note_embedding"}
    (folder / "notes").mkdir(parents=True)
    (folder / "dqa").mkdir()
    question = {"search_idx": [1], "query": ["一"], "answers": [["二"]], "ref_note_idx_list": [[0]]}
    pq.write_table(pa.table(question), folder / "dqa" / "train-00000-of-00001.parquet")
    order = rng.permutation(n_notes)
    for shard, note_idxs in enumerate(np.array_split(order, 5)):
        path = folder / "notes" / f"train-0000{shard}-of-00005.parquet"
        with pq.ParquetWriter(path, pa.schema(list(kinds.items()))) as writer:
            for part in np.array_split(note_idxs, max(1, len(note_idxs) // 20_000)):
                columns = {name: column(name, kind, part, texts, rng) for name, kind in kinds.items()}
                writer.write_table(pa.table(columns, schema=pa.schema(list(kinds.items()))))


def column(name: str, kind: pa.DataType, note_idxs: np.ndarray, texts: list[str], rng: np.random.Generator) -> object:
    """Values of one column for these notes."""
    size = len(note_idxs)
    if name == "note_idx":
        return note_idxs
    if name == "image_path":
        return [[f"image/part_{i % 200}/{i}/{j}.jpg" for j in range(i % 5)] for i in note_idxs.tolist()]
    if pa.types.is_string(kind):
        picked = (texts[i] for i in rng.integers(0, len(texts), size))
        return [text[:18] if name == "note_title" else text[:24] if "taxonomy" in name else text for text in picked]
    return rng.integers(0, 10_000, size).astype(np.float64)


def measured(code: str, folder: Path, n_read: int, environment: dict[str, str]) -> tuple[float, float, float, str]:
    """Peak memory (MB), seconds to open, seconds to read, and the shape of what was read."""
    command = [sys.executable, "-c", code + PRINT, str(folder), str(n_read)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    peak_mb, open_s, read_s, *shape = done.stdout.split()
    return float(peak_mb), float(open_s), float(read_s), " x ".join(shape)


def main() -> None:
    """Print a line a way of reading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notes", type=int, default=2_000_000)
    parser.add_argument("--read", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        write_corpus(folder, options.notes)
        size_mb = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 2**20
        print(f"{options.notes:,} notes, {size_mb:,.0f} MB of parquet, {options.read:,} notes read, all fields")
        environment = {"QILIN_RAG_CACHE": str(Path(temporary) / "cache")}
        ways = [("first opening", READ), ("later", READ)]
        try:
            import pandas  # noqa: F401
        except ImportError:
            print("pandas is not installed: no peer")
        else:
            ways.append(("pandas", PEER))
        peaks = {}
        for name, code in ways:
            peaks[name], open_s, read_s, shape = measured(code, folder, options.read, environment)
            print(f"{name:14} peak {peaks[name]:8,.0f} MB   open {open_s:6.2f} s   read {read_s:6.2f} s   {shape}")
        if "pandas" in peaks:
            print(f"pandas takes {peaks['pandas'] / peaks['later']:.1f} times the memory")


if __name__ == "__main__":
    main()
