"""Conversion of the tables to another encoding, table by table, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import new_folder
from qilin_rag.data.encodings import present_columns, read_batches, with_columns
from qilin_rag.data.schema import ALL_TABLES
from qilin_rag.data.source import Source

WRITTEN = ("parquet", "arrow", "jsonl")
_SHARD_ROWS = 500_000


def convert(source: Source, encoding: str, out: Path) -> dict[str, int]:
    """Write every table of `source` to the folder `out` in another encoding.

    Parquet is written in the hub's layout (a folder of shards per table), arrow and jsonl as one file per table.
    Columns that the table does not have are left out, except plain values under other keys of dqa.

    Args:
        source: The tables.
        encoding: `parquet`, `arrow` or `jsonl`.
        out: A new or empty folder.

    Returns:
        The number of rows by table.
    """
    with new_folder(out) as folder:
        return {name: _convert_table(source, name, encoding, folder) for name in source.tables()}


def _convert_table(source: Source, name: str, encoding: str, folder: Path) -> int:
    table = ALL_TABLES[name]
    source_encoding, files = source.files(name)
    columns = present_columns(source_encoding, files, table)
    schema = pa.schema([(column, table.readable[column]) for column in columns])
    batches = (
        with_columns(batch.rows, schema) for path in files for batch in read_batches(source_encoding, path, table)
    )
    match encoding:
        case "parquet":
            return _write_parquet(batches, schema, folder / name)
        case "arrow":
            with pa.ipc.new_file(str(folder / f"{name}.arrow"), schema) as writer:
                return sum(_written(writer, batch) for batch in batches)
        case "jsonl":
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                return sum(file.write(json.dumps(row, ensure_ascii=False) + "\n") > 0 for row in _rows(batches))
    raise UsageError(f"encoding {encoding!r} (--to) must be one of {', '.join(WRITTEN)}")


def _write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path) -> int:
    """Write shards of bounded size, named as on the hub once their number is known."""
    import pyarrow.parquet as pq

    folder.mkdir()
    shards: list[Path] = []
    n_rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for batch in batches:
            if writer is None or n_rows >= _SHARD_ROWS * len(shards):
                if writer is not None:
                    writer.close()
                shards.append(folder / f"{len(shards)}.part")
                writer = pq.ParquetWriter(shards[-1], schema, compression="zstd")
            writer.write_batch(batch)
            n_rows += len(batch)
        if writer is None:
            shards.append(folder / "0.part")
            writer = pq.ParquetWriter(shards[-1], schema)
    finally:
        if writer is not None:
            writer.close()
    for i, shard in enumerate(shards):
        shard.rename(folder / f"train-{i:05d}-of-{len(shards):05d}.parquet")
    return n_rows


def _written(writer: pa.ipc.RecordBatchFileWriter, batch: pa.RecordBatch) -> int:
    writer.write_batch(batch)
    return len(batch)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Yield rows as JSON objects: missing values are left out, and other plain values keep their own keys."""
    for batch in batches:
        for row in batch.to_pylist():
            extra = json.loads(row.pop("extra", None) or "{}")
            yield {key: value for key, value in row.items() if value is not None} | extra
