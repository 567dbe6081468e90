"""Read the results of BM25 and of a dense retriever that Qilin records beside its requests."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.errors import UsageError
from qilin_rag.data.encodings import present_columns, read_batches
from qilin_rag.data.questions import RECORDED, pairs_problem
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import Source
from qilin_rag.data.text_files import Defect, stop


def read_recorded(source: Source, table_name: str, results: str, ids: Sequence[str]) -> list[dict[int, float]]:
    """Return the recorded notes of requests with their scores; the higher score of a note that is there twice.

    Args:
        source: The data.
        table_name: The table of the requests.
        results: `bm25` or `dpr`.
        ids: The requests, in the order of the answer.

    Raises:
        UsageError: The table or one of the requests has no such results, or they are damaged.
    """
    table = TABLES[table_name]
    encoding, files = source.files(table_name)
    columns = {name: column for column, name in RECORDED.items()}
    present = present_columns(encoding, files, table)
    there = [name for name, column in columns.items() if column in present]
    if results not in there:
        raise UsageError(
            f"{files[0]}: the table {table_name} has no column {columns[results]}, so no candidates "
            f"recorded:{results}; recorded there: {', '.join(there) or 'none'}"
        )
    wanted, found = set(ids), dict[str, dict[int, float]]()
    for path in files:
        for batch in read_batches(encoding, path, table, [table.key, columns[results]]):
            keys = map(str, batch.rows.column(table.key).to_pylist())
            for row, (key, pairs) in enumerate(zip(keys, batch.rows.column(columns[results]), strict=True)):
                if key in wanted:
                    best = found[key] = {}
                    given = pairs.as_py() or []
                    if problem := pairs_problem(given):
                        stop(Defect(path, batch.place(row), columns[results], problem))
                    for note_idx, score in given:
                        best[int(note_idx)] = max(score, best.get(int(note_idx), score))
    if absent := [key for key in ids if not found.get(key)]:
        raise UsageError(
            f"{files[0]}: {len(absent):,} of {len(ids):,} requests have no {columns[results]}, the first is "
            f"{table.key} {absent[0]}; so there are no candidates recorded:{results}"
        )
    return [found[key] for key in ids]
