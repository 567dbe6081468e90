"""The request tables: every result that was shown, with the user's actions, in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import whole_number
from qilin_rag.data.encodings import Batch, present_columns, read_batches
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.questions import NO_ANSWER
from qilin_rag.data.schema import ACTIONS, TABLES, details_column
from qilin_rag.data.source import Source
from qilin_rag.data.text_files import Defect, stop

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T", bound="RequestColumns")

BEIJING_MS = 8 * 3600 * 1000
"""The offset of Beijing's clock from UTC, all year."""
MISSING = -1
_PER_REQUEST = ("is_search", "user_idx", "session_idx", "source", "time_ms", "answered")
_COLUMNS = ("query", "user_idx", "session_idx", "query_from_type", "recent_clicked_note_idxs", "dqa_output")


@dataclass(frozen=True)
class RequestColumns:
    """`n` requests with `m` results in all; the results of request i are the rows offsets[i] to offsets[i + 1].

    Missing values are -1 (`source`: 0). Columns that a subclass adds have one value per result, (m, ...).
    """

    ids: Sequence[str]
    queries: Sequence[str]
    is_search: Bools
    """(n,): whether it is a search; the others are recommendations."""
    user_idx: Ints
    """(n,)"""
    session_idx: Ints
    """(n,)"""
    source: Ints
    """(n,): the source of the query, 1 to 8."""
    time_ms: Ints
    """(n,): the time of the first result, since 1970 in UTC."""
    answered: Bools
    """(n,): whether a direct answer was shown."""
    recent_offsets: Ints
    recent: Ints
    """The notes clicked before the request, newest first, by request as in `offsets`."""
    offsets: Ints
    note_idx: Ints
    """(m,)"""
    position: Ints
    """(m,), from 1; 0 is above 1 (see `LogSettings.position_zero`)."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def request(self) -> Ints:
        """Return the request of each result, (m,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def id_numbers(self) -> Ints:
        """Return the ids as numbers to order by, (n,); -1 for an id that is not a number."""
        numbers = map(whole_number, self.ids)
        return np.array([MISSING if number is None else number for number in numbers], np.int64)

    def take(self, rows: Ints | Bools) -> Self:
        """Return the requests at these positions, or those for which the mask is set."""
        chosen: Ints = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        recent_offsets, recent_at = _gather(self.recent_offsets, chosen)
        offsets, places = _gather(self.offsets, chosen)
        values: dict[str, Any] = {
            "ids": [self.ids[row] for row in chosen],
            "queries": [self.queries[row] for row in chosen],
            "recent_offsets": recent_offsets,
            "recent": self.recent[recent_at],
            "offsets": offsets,
        }
        for field in fields(self):
            if field.name not in values:
                values[field.name] = getattr(self, field.name)[chosen if field.name in _PER_REQUEST else places]
        return type(self)(**values)


@dataclass(frozen=True)
class Exposures(RequestColumns):
    """Requests whose results are in table order, neither by time nor by position; a note can occur twice."""

    actions: npt.NDArray[np.bool_]
    """(m, 5): click, like, collect, share, comment."""
    page_time_s: npt.NDArray[np.float32]
    """(m,): how long the note was open, in seconds; -1 if this is not known, which the tables write as NaN, -1 or 0."""


def read_exposures(source: Source, name: str) -> Exposures:
    """Return all requests of a table in its order; a UsageError names the first defect."""
    table = TABLES[name]
    encoding, files = source.files(name)
    present = present_columns(encoding, files, table)
    details = details_column(table)
    if details not in present:
        stop(Defect(files[0], "", "", f"column {details!r} is missing"))
    columns = [table.key, details, *(column for column in _COLUMNS if column in present)]
    parts = [
        _of_batch(batch, table.key, details, source.log)
        for path in files
        for batch in read_batches(encoding, path, table, columns)
    ]
    nothing = pa.RecordBatch.from_arrays([pa.array([], table.columns[column]) for column in columns], names=columns)
    exposures = concat(parts or [_of_batch(Batch(nothing, files[0], "row", []), table.key, details, source.log)])
    first: dict[str, int] = {}
    for row, request in enumerate(exposures.ids):
        if first.setdefault(request, row) != row:
            raise UsageError(f"{files[0]}: {table.key} {request} occurs twice")
    return exposures


def concat(parts: Sequence[T]) -> T:
    """Join requests of several tables into one, in columns of their class."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if field.name.endswith("offsets"):
            joined[field.name] = offsets_of(np.concatenate([np.diff(each) for each in values]))
        elif isinstance(values[0], np.ndarray):
            joined[field.name] = np.concatenate(values)
        else:
            joined[field.name] = [value for each in values for value in each]
    return type(parts[0])(**joined)


def offsets_of(lengths: Ints) -> Ints:
    """Return the start of each list of these lengths, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _gather(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Return the offsets of some lists when they follow one another, and the positions of their values."""
    lengths = (offsets[1:] - offsets[:-1])[rows]
    ends = np.cumsum(lengths, dtype=np.int64)
    at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(offsets[:-1][rows] - (ends - lengths), lengths)
    return offsets_of(lengths), at


def _of_batch(batch: Batch, key: str, details: str, log: LogSettings) -> Exposures:
    rows = batch.rows
    n = len(rows)

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return rows.column(name) if name in rows.schema.names else pa.nulls(n, kind)

    for name in (key, details):
        if rows.column(name).null_count:
            stop(Defect(batch.path, batch.place(rows.column(name).is_null().index(True).as_py()), name, "is missing"))
    offsets, items = _lists(rows.column(details))
    item = {field.name: items.field(field.name) for field in items.type}
    if item["note_idx"].null_count:
        row = int(np.searchsorted(offsets, item["note_idx"].is_null().index(True).as_py(), side="right")) - 1
        stop(Defect(batch.path, batch.place(row), details, "holds a result without note_idx"))
    is_search = details.startswith("search")
    stamps = _ints(item["search_timestamp" if is_search else "request_timestamp"], MISSING)
    true_ms = np.where(stamps < 0, MISSING, (stamps - log.search_shift_s) * 1000 if is_search else stamps)
    position = _ints(item["position"], MISSING)
    if log.position_zero == "unknown":
        position = np.where(position == 0, MISSING, position)
    recent_offsets, recent = _lists(column("recent_clicked_note_idxs", pa.list_(pa.int64())))
    shown = pc.utf8_trim_whitespace(pc.fill_null(column("dqa_output", pa.string()), ""))
    return Exposures(
        ids=list(map(str, rows.column(key).to_pylist())),
        queries=pc.fill_null(column("query", pa.string()), "").to_pylist(),
        is_search=np.full(n, is_search),
        user_idx=_ints(column("user_idx", pa.int64()), MISSING),
        session_idx=_ints(column("session_idx", pa.int64()), MISSING),
        source=_ints(column("query_from_type", pa.float64()), 0),
        time_ms=_earliest(true_ms, offsets),
        answered=~pc.is_in(shown, pa.array(NO_ANSWER)).to_numpy(zero_copy_only=False),
        recent_offsets=recent_offsets,
        recent=_ints(recent, MISSING),
        offsets=offsets,
        note_idx=_ints(item["note_idx"], MISSING),
        position=position,
        actions=np.stack([_ints(item[name], 0) == 1 for name in ACTIONS], axis=1),
        page_time_s=_seconds(item["page_time"]),
    )


def _earliest(times: Ints, offsets: Ints) -> Ints:
    """Return the earliest known time among each request's results, else -1."""
    late = np.iinfo(np.int64).max
    earliest = np.full(len(offsets) - 1, late)
    request = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    np.minimum.at(earliest, request, np.where(times < 0, late, times))
    return np.where(earliest == late, MISSING, earliest)


def _ints(array: pa.Array, missing: int) -> Ints:
    """Return any numeric column as whole numbers."""
    numbers: Ints = pc.fill_null(array.cast(pa.int64(), safe=False), missing).to_numpy(zero_copy_only=False)
    return numbers


def _seconds(array: pa.Array) -> npt.NDArray[np.float32]:
    """Return times above 0; -1 for others."""
    seconds = pc.fill_null(array.cast(pa.float32()), MISSING).to_numpy(zero_copy_only=False)
    is_known = np.isfinite(seconds) & (seconds > 0)
    return np.where(is_known, seconds, np.float32(MISSING))


def _lists(array: pa.ListArray) -> tuple[Ints, pa.Array]:
    """Return the start of each list among all values, and the values; a missing list is empty."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return offsets_of(lengths), array.flatten()
