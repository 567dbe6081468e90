"""Make columns of numbers for models of tables: a request's user, its context and its candidates.

Ids are hashed into buckets by a hash that is the same in every process; bucket 0 stands for a missing id. Counts are
log1p(count); their scales are fitted on train and kept with the model. Only notes that occur in the requests are read;
their columns are memory-mapped, and a batch is gathered from all columns at once.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.arrays import positions_in
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import Ints
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.data.schema import TABLES

N_RECENT = 10
"""The number of clicked notes of a user's history that count, newest first."""
RECOMMENDATION_SOURCE = 9
N_SOURCES = 16
"""Classes of the query's source: 0 missing, 1 to 8, and 9 without a query; the paper's one-hot has this width."""

NOTE_ATTRIBUTES = (
    "video_duration",
    "video_height",
    "video_width",
    "image_num",
    "content_length",
    "commercial_flag",
)
NOTE_COUNTS = tuple(
    name
    for name, kind in TABLES["notes"].columns.items()
    if kind == pa.float64() and name not in (*NOTE_ATTRIBUTES, "note_type")
)
"""Counts without a date, so that they may hold the clicks of the test."""
USER_COUNTS = ("fans_num", "follows_num")
USER_NUMBERS = tuple(name for name in TABLES["user_feat"].columns if name.startswith("dense_feat"))
NOTE_IDS = ("note_type", "taxonomy1_id", "taxonomy2_id", "taxonomy3_id", "note_idx")
USER_IDS = ("gender", "platform", "age", "location", "user_idx")

_NO_VALUE = ("", "nan")
_CHUNK_NOTES = 65536  # rows that are read at a time

Buckets = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float16]
Batch = dict[str, npt.NDArray[Any]]


def bucket_of_ids(ids: Ints, n_buckets: int) -> Buckets:
    """Return buckets of whole numbers from 0 (missing: negative); the first `n_buckets` - 1 share none."""
    return np.where(ids < 0, 0, 1 + ids % (n_buckets - 1)).astype(np.int32)


def bucket_of_texts(name: str, texts: pa.ChunkedArray | pa.Array, n_buckets: int) -> Buckets:
    """Return the buckets of texts of the column `name`, each hashed once; null, "" and "nan" are missing."""
    encoded = pa.chunked_array([texts]) if isinstance(texts, pa.Array) else texts
    encoded = pc.fill_null(encoded, "").combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    of_text = [_bucket_of_text(name, text, n_buckets) for text in encoded.dictionary.to_pylist()]
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    return np.array(of_text, np.int32)[indices] if of_text else np.zeros(len(indices), np.int32)


def _bucket_of_text(name: str, text: str, n_buckets: int) -> int:
    if text in _NO_VALUE:
        return 0
    digest = hashlib.blake2b(f"{name}\0{text}".encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (n_buckets - 1)


def log_counts(values: npt.NDArray[np.float64]) -> Floats:
    """Return log(1 + count); NaN stays NaN."""
    return np.log1p(np.maximum(values, 0)).astype(np.float32)


def mean_and_std(values: Floats) -> tuple[Floats, Floats]:
    """Return both of each column, without NaN; a column with no value, or one value only, keeps its scale."""
    known = np.isfinite(values)
    n = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0, dtype=np.float64) / n
    std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0, dtype=np.float64) / n)
    return mean.astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)


@dataclass(frozen=True)
class NoteColumns:
    """Some notes: ids ascending; `numbers` (n_notes, n_numbers) by log1p, NaN if missing; `ids` (n_notes, 5)."""

    note_idx: Ints
    numbers: Floats
    ids: Buckets


@dataclass(frozen=True)
class UserColumns:
    """All users, and a last row for unknown ones. `numbers` (n_users + 1, 42), `ids` (n_users + 1, 4)."""

    user_idx: Ints
    numbers: Floats
    ids: Buckets

    def rows(self, user_idx: Ints) -> Ints:
        """Return the rows of these users; the last row for an unknown one."""
        places = positions_in(self.user_idx, user_idx)
        return np.where(places >= 0, places, len(self.user_idx))


def note_numbers(with_counts: bool) -> tuple[str, ...]:
    """Return the names of a note's numbers."""
    return NOTE_ATTRIBUTES + (NOTE_COUNTS if with_counts else ())


def read_note_columns(notes: NoteStore, note_idx: Ints, n_buckets: dict[str, int], with_counts: bool) -> NoteColumns:
    """Read the columns of these notes (ascending ids without duplicates), part by part."""
    names = note_numbers(with_counts)
    there = set(notes.columns)
    numbers: Floats = _mapped((len(note_idx), len(names)), np.float32)
    ids: Buckets = _mapped((len(note_idx), len(NOTE_IDS)), np.int32)
    wanted = [name for name in (*names, *NOTE_IDS) if name in there]
    for start in range(0, len(note_idx), _CHUNK_NOTES):
        part = slice(start, start + _CHUNK_NOTES)
        rows = notes.read(note_idx[part], wanted)
        for i, name in enumerate(names):
            numbers[part, i] = log_counts(_floats(rows, name))
        for i, name in enumerate(NOTE_IDS):
            ids[part, i] = _buckets(rows, name, n_buckets[name])
    return NoteColumns(note_idx, numbers, ids)


def read_user_columns(users: pa.Table, n_buckets: dict[str, int]) -> UserColumns:
    """Read the columns of all users; `ids` lacks the id itself, because a request may name an unknown user."""
    users = users.sort_by("user_idx")
    columns = [log_counts(_floats(users, name)) for name in USER_COUNTS]
    columns += [_floats(users, name).astype(np.float32) for name in USER_NUMBERS]
    numbers = np.stack([np.append(column, np.float32(np.nan)) for column in columns], axis=1)
    ids = np.stack([np.append(_buckets(users, name, n_buckets[name]), 0) for name in USER_IDS[:-1]], axis=1)
    return UserColumns(users.column("user_idx").to_numpy(), numbers, ids.astype(np.int32))


@dataclass(frozen=True)
class TextColumns:
    """Vectors of texts, memory-mapped, of notes (n_texts, width) and queries (n_queries, width), with their rows."""

    notes: Vectors
    text_of_note: Ints
    """(n_notes,), in the order of ids."""
    queries: Vectors
    query_row: Ints
    """(n_requests,)"""


@dataclass(frozen=True)
class Columns:
    """All that is known of the candidates of some requests except clicks and positions; None is left out."""

    request: Ints
    """(n_candidates,), like the next."""
    note_row: Ints
    is_search: Floats
    """(n_requests,), like the next three."""
    source: Buckets | None
    recent: Buckets | None
    """(n_requests, N_RECENT), padded with 0."""
    user_row: Ints | None
    user_id: Buckets | None
    notes: NoteColumns
    users: UserColumns | None
    text: TextColumns | None

    def __len__(self) -> int:
        return len(self.request)

    def batch(self, rows: Ints) -> Batch:
        """Return the features of these candidates."""
        request, note = self.request[rows], self.note_row[rows]
        found: Batch = {
            "is_search": self.is_search[request],
            "note_numbers": self.notes.numbers[note],
            "note_ids": self.notes.ids[note],
        }
        if self.source is not None:
            found["source"] = self.source[request]
        if self.recent is not None:
            found["recent"] = self.recent[request]
        if self.users is not None and self.user_row is not None and self.user_id is not None:
            user = self.user_row[request]
            found["user_numbers"] = self.users.numbers[user]
            found["user_ids"] = np.concatenate([self.users.ids[user], self.user_id[request, None]], axis=1)
        if self.text is not None:
            found["query_vector"] = self.text.queries[self.text.query_row[request]]
            found["note_vector"] = self.text.notes[self.text.text_of_note[note]]
        return found


def columns_of(
    requests: Requests,
    catalogue: Catalogue,
    n_buckets: dict[str, int],
    without: Sequence[str],
    users: UserColumns | None,
    text: TextColumns | None,
) -> Columns:
    """Return the columns of these requests; `users` and `text` are None if the model has none."""
    note_idx, note_row = np.unique(requests.note_idx, return_inverse=True)
    source = np.where((requests.source >= 1) & (requests.source <= 8), requests.source, 0)
    return Columns(
        request=requests.request,
        note_row=note_row,
        is_search=requests.is_search.astype(np.float32),
        source=None
        if "query_source" in without
        else np.where(requests.is_search, source, RECOMMENDATION_SOURCE).astype(np.int32),
        recent=None if "history" in without else recent_buckets(requests, n_buckets["note_idx"]),
        user_row=None if users is None else users.rows(requests.user_idx),
        user_id=None if users is None else bucket_of_ids(requests.user_idx, n_buckets["user_idx"]),
        notes=read_note_columns(catalogue.notes, note_idx, n_buckets, "counts" not in without),
        users=users,
        text=text,
    )


def recent_buckets(requests: Requests, n_buckets: int) -> Buckets:
    """Return the first recently clicked notes of each request, (n_requests, N_RECENT), padded with 0."""
    starts, lengths = requests.recent_offsets[:-1], np.diff(requests.recent_offsets)
    nth = np.arange(N_RECENT)
    is_there = nth < lengths[:, None]
    at = np.where(is_there, starts[:, None] + nth, 0)
    recent = requests.recent[at] if len(requests.recent) else np.full(at.shape, -1)
    return bucket_of_ids(np.where(is_there, recent, -1), n_buckets)


def _mapped(shape: tuple[int, int], kind: Any) -> Any:
    """Return an array of zeros in a file that is deleted with the array."""
    if 0 in shape:
        return np.zeros(shape, kind)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, kind, "w+", shape=shape)


def _floats(rows: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """Return a column of numbers, NaN for a missing one."""
    if name not in rows.schema.names:
        return np.full(len(rows), np.nan)
    column = pc.fill_null(rows.column(name).cast(pa.float64()), float("nan"))
    values: npt.NDArray[np.float64] = column.to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _buckets(rows: pa.Table, name: str, n_buckets: int) -> Buckets:
    if name not in rows.schema.names:
        return np.zeros(len(rows), np.int32)
    if pa.types.is_string(rows.schema.field(name).type) or pa.types.is_large_string(rows.schema.field(name).type):
        return bucket_of_texts(name, rows.column(name), n_buckets)
    return bucket_of_ids(np.nan_to_num(_floats(rows, name), nan=-1).astype(np.int64), n_buckets)
