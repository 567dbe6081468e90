"""Table files: found in a folder in any encoding, and read in batches with the table's own columns and types.

Encodings: parquet and arrow (one file, or a folder of shards as on the hub), csv (lists as numpy prints them), jsonl.
Each defect is reported with file, row and column; readers that use the data stop at the first one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import clean
from qilin_rag.core.text_encodings import hint
from qilin_rag.data.arrow_arrays import arrow_array
from qilin_rag.data.cells import convert, identifier, parse_cell
from qilin_rag.data.note_ids import NoteIds, is_named
from qilin_rag.data.schema import NOTE_ID, Table
from qilin_rag.data.text_files import (
    CsvFile,
    Defect,
    Report,
    double_problem,
    json_lines,
    missing_columns,
    names_in,
    stop,
)

ENCODINGS = ("parquet", "arrow", "csv", "jsonl")
SAVED_FILES = _SAVED_SPLITS, _SAVED_STATE = "dataset_dict.json", "state.json"
"""Files that the datasets library writes beside data: the splits of a `DatasetDict`, the files of a `Dataset`."""
BATCH_ROWS = 4096
_ROWWISE_BATCH_ROWS = 1024
_PLAIN = (str, int, float, bool)


class Batch(NamedTuple):
    """Some rows of a table, and their place in the file."""

    rows: pa.RecordBatch
    path: Path
    unit: str
    numbers: Sequence[int]

    def place(self, row: int) -> str:
        """Return the place of a row of this batch in its file: `line 3` or `row 2`."""
        return f"{self.unit} {self.numbers[row]}"


def find_files(folder: Path, name: str) -> tuple[str, list[Path]] | None:
    """Find the encoding and the files of a table in a folder: `NAME.ENCODING`, or a folder `NAME` with shards.

    A dataset that the datasets library saved in a folder `NAME` counts as shards, too: for a `DatasetDict` all splits,
    in the order of its dataset_dict.json. A `DatasetDict` of tables, each a split with the table's name, is a folder of
    tables.
    """
    for encoding in ENCODINGS:
        single = folder / f"{name}.{encoding}"
        if paths := [single] if single.is_file() else _shards(folder / name, encoding):
            if other := next((path for path in paths if path.exists() and not path.is_file()), None):
                raise UsageError(f"{other} is not a plain file")  # opening a pipe would wait forever
            return encoding, paths
    return None


def _shards(folder: Path, encoding: str) -> list[Path]:
    if encoding == "arrow" and (folder / _SAVED_SPLITS).is_file():
        splits = _saved_names(folder / _SAVED_SPLITS, lambda content: content["splits"])
        return [path for split in splits for path in _saved_shards(folder / split)]
    if encoding == "arrow" and (folder / _SAVED_STATE).is_file():
        return _saved_shards(folder)
    return sorted(folder.glob(f"*.{encoding}"))


def _saved_shards(folder: Path) -> list[Path]:
    """Return the files of a saved dataset; other files beside them are caches or leftovers of an earlier save."""
    state = folder / _SAVED_STATE
    return [
        folder / name
        for name in _saved_names(state, lambda content: [file["filename"] for file in content["_data_files"]])
    ]


def _saved_names(path: Path, read: Callable[[Any], Any]) -> list[str]:
    """Return the names of files or folders that a JSON file of the datasets library lists."""
    try:
        names = read(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} can't be read, or names no files: save the dataset again") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_beside(name) for name in names):
        raise UsageError(f"{path} names files that are not beside it")
    return names


def _is_beside(name: str) -> bool:
    return name == Path(name).name != ".."


def present_columns(encoding: str, files: Sequence[Path], table: Table, report: Report = stop) -> list[str]:
    """Return the table's columns that at least one of the files has, in the table's order."""
    names_present: set[str] = set()
    has_named_notes = False
    for path in files:
        with _reading(path, report):
            match encoding:
                case "parquet" | "arrow":
                    schema = _schema(encoding, path)
                    names_present |= set(schema.names)
                    has_named_notes |= _may_name_notes(table, schema)
                case "csv":
                    names_present |= set(CsvFile(path).header)
                    rows = (
                        CsvFile(path).rows(lambda defect: None)
                        if _names_notes(table, list(names_present))
                        else iter(())
                    )
                    has_named_notes |= any(is_named(row[table.key]) for _, row in rows)
                case _:
                    for _, row in json_lines(path, report):
                        names_present |= row.keys()
                        has_named_notes |= _names_notes(table, row) and is_named(row[table.key])
    names = names_in(table, sorted(names_present))
    extra_names = "extra" in table.columns and encoding in ("csv", "jsonl") and names_present - set(names.values())
    added = {"extra": bool(extra_names), NOTE_ID: has_named_notes}
    return [name for name in table.readable if name in names or added.get(name)]


def _names_notes(table: Table, names: Container[str]) -> bool:
    """Return whether the ids of this table may be text: notes in the generic layout, with their shorter names."""
    return NOTE_ID in table.own and table.key in names and "note_title" not in names


def _may_be_text(table: Table, names: Container[str]) -> bool:
    """Return whether the ids of notes in this table may be text."""
    return NOTE_ID not in table.own or _names_notes(table, names)


def _may_name_notes(table: Table, schema: pa.Schema) -> bool:
    return _names_notes(table, schema.names) and not pa.types.is_integer(schema.field(table.key).type)


def _schema(encoding: str, path: Path) -> pa.Schema:
    if encoding == "parquet":
        import pyarrow.parquet as pq

        return pq.read_schema(path, memory_map=True)
    with pa.memory_map(str(path)) as source:
        return _open_arrow(source).schema


def with_columns(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows with the columns of `schema`; missing columns are null."""
    present = set(rows.schema.names)
    arrays = [rows.column(field.name) if field.name in present else pa.nulls(len(rows), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@contextmanager
def _reading(path: Path, report: Report) -> Iterator[None]:
    """Report the errors of an unreadable file as a defect of the file."""
    try:
        yield
    except UnicodeDecodeError:
        report(Defect(path, "", "", f"can't be read: not UTF-8 text{hint(path)}"))
    except (OSError, pa.ArrowException, csv.Error) as error:
        problem = getattr(error, "strerror", None) or str(error).splitlines()[0]
        report(Defect(path, "", "", f"can't be read: {problem}"))


def read_batches(
    encoding: str, path: Path, table: Table, columns: Sequence[str] | None = None, report: Report = stop
) -> Iterator[Batch]:
    """Yield one file of a table in batches of the named columns (default: all) that the file has.

    Columns have the table's names. Values that are reported as defects are null.
    """
    kinds = {name: table.readable[name] for name in columns or table.readable}
    with _reading(path, report):
        yield from (_columnar if encoding in ("parquet", "arrow") else _rowwise)(encoding, path, table, kinds, report)


def _columnar(
    encoding: str, path: Path, table: Table, columns: Mapping[str, pa.DataType], report: Report
) -> Iterator[Batch]:
    names = _schema(encoding, path).names
    file_names = names_in(table, names)
    if problem := double_problem([name for name in names if name in file_names.values()]):
        report(Defect(path, "", "", problem))
        return
    for problem in missing_columns(table, names, columns):
        report(Defect(path, "", "", f"column {problem}"))
    ids = NoteIds(_may_be_text(table, names))
    first = 0
    for batch in _record_batches(encoding, path, table, columns):
        numbers = range(first, first + len(batch))
        first += len(batch)
        arrays = {
            name: _conform(batch.column(file_names[name]), name, kind, table, path, numbers, report, ids)
            for name, kind in columns.items()
            if name in file_names
        }
        if NOTE_ID in columns and table.key in arrays and not pa.types.is_integer(batch.column(table.key).type):
            texts = batch.column(table.key).to_pylist()
            arrays[NOTE_ID] = pa.array([clean(text) if is_named(text) else None for text in texts], pa.string())
        yield Batch(pa.RecordBatch.from_pydict(arrays), path, "row", numbers)


def _record_batches(
    encoding: str, path: Path, table: Table, columns: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Yield the file's own batches, bounded in size; of columns that are not needed, only the names are read."""
    if encoding == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path, memory_map=True) as file:
            names = names_in(table, file.schema_arrow.names)
            chosen = [file_name for name, file_name in names.items() if name in columns]
            if not file.metadata.num_rows:
                yield from pa.Table.from_batches([], file.schema_arrow).select(chosen).to_batches()
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=chosen)
        return
    with pa.memory_map(str(path)) as source:
        reader = _open_arrow(source)
        is_file = isinstance(reader, pa.ipc.RecordBatchFileReader)
        for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
            for start in range(0, max(1, len(batch)), BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _open_arrow(source: pa.NativeFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """Open an Arrow file, or the streaming form that the datasets library writes under the same name."""
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _conform(
    array: pa.Array,
    name: str,
    kind: pa.DataType,
    table: Table,
    path: Path,
    numbers: Sequence[int],
    report: Report,
    ids: NoteIds,
) -> pa.Array:
    """Convert a column to its type: as a whole if possible, else value by value, to find the wrong one."""
    with suppress(pa.ArrowException, ValueError):  # the wrong value is found below
        return _cast(array, kind)
    values = []
    for number, value in zip(numbers, array, strict=True):
        try:
            values.append(_converted(value.as_py(), table, name, kind, ids))
        except ValueError as error:
            problem = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
            report(Defect(path, f"row {number}", name, problem))
            values.append(None)
    return pa.array(values, kind)


def _converted(value: Any, table: Table, name: str, kind: pa.DataType, ids: NoteIds) -> Any:
    """Return a value in the type of its column; a ValueError names what is wrong."""
    if name != table.key:
        return convert(value, kind, ids)
    if pa.types.is_string(kind):
        return identifier(value)
    return ids.read(value) if NOTE_ID in table.own else convert(value, kind)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the whole array in this type, with NaN as null; raise if a value does not fit."""
    import pyarrow.compute as pc

    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_list(kind):
        kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(is_kind(array.type) for is_kind in kinds):
            raise ValueError("no list")
        array = pa.concat_arrays([array.cast(pa.list_(array.type.value_type))])  # offsets from 0
        missing = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(array.offsets, _cast(array.values, kind.value_type), kind, mask=missing)
    if pa.types.is_struct(kind):
        if not pa.types.is_struct(array.type):
            raise ValueError("no mapping")
        present = {field.name for field in array.type}
        fields = [
            _cast(pc.struct_field(array, field.name), field.type)
            if field.name in present
            else pa.nulls(len(array), field.type)
            for field in kind
        ]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null() if array.null_count else None)
    if pa.types.is_string(kind):
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise ValueError("no text")
        array = array.cast(kind)
        array.validate(full=True)
        return array
    if pa.types.is_boolean(array.type) or not pa.types.is_primitive(array.type) or pa.types.is_temporal(array.type):
        raise ValueError("no number")
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    array = array.cast(kind)
    if pa.types.is_integer(kind) and (pc.min(array).as_py() or 0) < 0:
        raise ValueError("below 0")
    if pa.types.is_floating(kind) and pc.any(pc.is_inf(array)).as_py():
        raise ValueError("infinite")
    return array


def _rowwise(
    encoding: str, path: Path, table: Table, columns: Mapping[str, pa.DataType], report: Report
) -> Iterator[Batch]:
    """Yield rows as Python data, one batch at a time."""
    is_csv = encoding == "csv"
    unit = "row" if is_csv else "line"
    if is_csv:
        of_csv = CsvFile(path)
        if problem := of_csv.problem():
            report(Defect(path, "", "", problem))
            return
        for problem in missing_columns(table, of_csv.header, columns):
            report(Defect(path, "", "", f"column {problem}"))
    rows: Iterator[tuple[int, Mapping[str, Any]]] = of_csv.rows(report) if is_csv else json_lines(path, report)
    ids, numbers_only = NoteIds(), NoteIds(is_text_allowed=False)
    pending: list[dict[str, Any]] = []
    numbers: list[int] = []

    def batch() -> Batch:
        types = {name: kind for name, kind in columns.items() if any(name in row for row in pending)}
        arrays = {name: arrow_array([row.get(name) for row in pending], kind) for name, kind in types.items()}
        whole = Batch(pa.RecordBatch.from_pydict(arrays), path, unit, list(numbers))
        pending.clear()
        numbers.clear()
        return whole

    for number, row in rows:
        place = f"{unit} {number}"
        names = names_in(table, list(row))
        if not is_csv:
            for problem in missing_columns(table, list(row), columns):
                report(Defect(path, place, "", f"key {problem}"))
        row_ids = ids if _may_be_text(table, row) else numbers_only
        names_notes = _names_notes(table, row)
        converted: dict[str, Any] = {}
        for name, file_name in names.items():
            if name not in columns:
                continue
            try:
                is_text = not is_csv or (name == table.key and names_notes)
                value = row[file_name] if is_text else parse_cell(row[file_name], columns[name])
                converted[name] = _converted(value, table, name, columns[name], row_ids)
            except ValueError as error:
                report(Defect(path, place, file_name, str(error)))
                converted[name] = None
        if NOTE_ID in columns and names_notes and is_named(row[table.key]):
            converted[NOTE_ID] = clean(row[table.key])
        if "extra" in columns and "extra" not in row:
            other_values = {clean(key): value for key, value in row.items() if key not in names.values()}
            plain = {key: value for key, value in other_values.items() if isinstance(value, _PLAIN)}
            converted["extra"] = clean(json.dumps(plain, ensure_ascii=False)) if plain else None
        pending.append(converted)
        numbers.append(number)
        if len(pending) == _ROWWISE_BATCH_ROWS:
            yield batch()
    if pending:
        yield batch()
