"""NoteStore: two million notes by random access, out of a memory-mapped file.

Whatever a corpus is encoded in is converted once, streamed, to one Arrow file in the cache folder (a small corpus in
memory), with the digest of each note beside it; an id and a place in the file is all that is held of a note.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.config import cache_dir
from qilin_rag.data.encodings import Defect, present_columns, read_batches, stop, with_columns
from qilin_rag.data.schema import TABLES
from qilin_rag.errors import QilinError, UsageError
from qilin_rag.types import Note

logger = logging.getLogger(__name__)

_VERSION = 1  # of what the cached file holds; raise it when that changes
_LARGEST_IN_MEMORY_BYTES = 16 * 2**20
_TABLE = TABLES["notes"]
_TEXT = ("note_idx", "note_title", "note_content", "sha256")


class NoteStore:
    """All notes of a corpus, without holding them as Python objects."""

    def __init__(self, source: pa.NativeFile) -> None:
        """`source` is an Arrow file that `open_notes` made."""
        self._source = source
        self._text = self._reader([0, 1, 2])
        digests = self._reader([0, 3])
        batches = [digests.get_batch(i) for i in range(digests.num_record_batches)]
        self._starts = np.cumsum([0, *map(len, batches)])
        self._note_idxs = np.concatenate([np.zeros(0, np.int64), *(batch.column(0).to_numpy() for batch in batches)])
        self._order = np.argsort(self._note_idxs, kind="stable")
        self._sorted = self._note_idxs[self._order]
        self._digests = [batch.column(1) for batch in batches]

    @property
    def note_idxs(self) -> npt.NDArray[np.int64]:
        """The ids of all notes in storage order, shape (n_notes,)."""
        return self._note_idxs

    @cached_property
    def sha256(self) -> str:
        """Hash of what the notes say, whatever the layout and the order they are stored in."""
        parts = [np.frombuffer(array.buffers()[1], "V32", len(array), 32 * array.offset) for array in self._digests]
        digests = np.concatenate([np.zeros(0, "V32"), *parts])
        return hashlib.sha256(digests[self._order].tobytes()).hexdigest()

    @property
    def columns(self) -> list[str]:
        """What there is of each note, for `read`."""
        return [name for name in self._reader().schema.names if name != "sha256"]

    def __len__(self) -> int:
        return len(self._note_idxs)

    def __iter__(self) -> Iterator[Note]:
        """Stream all notes in storage order."""
        for i in range(self._text.num_record_batches):
            columns = [column.to_pylist() for column in self._text.get_batch(i).columns]
            for note_idx, title, content in zip(*columns, strict=True):
                yield Note.model_construct(note_idx=note_idx, title=title, content=content)

    def missing(self, note_idxs: Sequence[int]) -> list[int]:
        """Those of these ids that no note has, in order, each once."""
        wanted = np.unique(np.asarray(note_idxs, dtype=np.int64))
        return [int(note_idx) for note_idx in wanted[self._slots(wanted) < 0]]

    def get(self, note_idxs: Sequence[int]) -> list[Note]:
        """The named notes, in the order asked for; a UsageError names those that are not there."""
        notes = []
        for slot in self._slots_of_all(note_idxs):
            batch, row = self._place(slot)
            note_idx, title, content = (column[row].as_py() for column in self._text.get_batch(batch).columns)
            notes.append(Note.model_construct(note_idx=note_idx, title=title, content=content))
        return notes

    def read(self, note_idxs: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """Any columns of the named notes (default: all), a row each in the order asked for."""
        names = self._reader().schema.names
        chosen = [names.index(name) for name in columns or self.columns]
        reader = self._reader(sorted(chosen))
        slots = self._slots_of_all(note_idxs)
        batches = np.searchsorted(self._starts, slots, side="right") - 1
        parts = [reader.schema.empty_table()]
        for batch in np.unique(batches):
            rows = pa.array(slots[batches == batch] - self._starts[batch])
            parts.append(pa.Table.from_batches([reader.get_batch(int(batch)).take(rows)]))
        back = np.argsort(np.argsort(batches, kind="stable"), kind="stable")
        return pa.concat_tables(parts).take(pa.array(back)).select([names[i] for i in chosen])

    def _reader(self, fields: Sequence[int] = ()) -> pa.ipc.RecordBatchFileReader:
        """All fields, or these by number."""
        return pa.ipc.open_file(self._source, options=pa.ipc.IpcReadOptions(included_fields=list(fields)))

    def _slots(self, note_idxs: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each note stands in storage order; -1 where there is none."""
        wanted = np.asarray(note_idxs, dtype=np.int64)
        if not len(self):
            return np.full(len(wanted), -1)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self) - 1)
        return np.where(self._sorted[places] == wanted, self._order[places], -1)

    def _slots_of_all(self, note_idxs: Sequence[int]) -> npt.NDArray[np.int64]:
        slots = self._slots(note_idxs)
        if (slots < 0).any():
            raise UsageError(f"the data has no note {', '.join(map(str, self.missing(note_idxs)[:10]))}")
        return slots

    def _place(self, slot: int) -> tuple[int, int]:
        """Batch, and row in it."""
        batch = int(np.searchsorted(self._starts, slot, side="right")) - 1
        return batch, int(slot - self._starts[batch])


def note_digest(note_idx: int, title: str, content: str) -> bytes:
    """32 bytes that stand for what one note says."""
    return hashlib.sha256(json.dumps([note_idx, title, content], ensure_ascii=False).encode()).digest()


def open_notes(encoding: str, files: Sequence[Path]) -> NoteStore:
    """The notes of these files; a UsageError names the first defect, with file, row and column."""
    try:
        stats = [path.stat() for path in files]
    except OSError as error:
        raise UsageError(f"{error.filename} can't be read: {error.strerror}") from error
    if sum(stat.st_size for stat in stats) <= _LARGEST_IN_MEMORY_BYTES:
        sink = pa.BufferOutputStream()
        _convert(encoding, files, sink)
        return NoteStore(pa.BufferReader(sink.getvalue()))
    seen = [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in zip(files, stats, strict=True)]
    key = hashlib.sha256(json.dumps([_VERSION, seen]).encode()).hexdigest()
    return _open_kept(cache_dir() / "notes" / f"{key[:24]}.arrow", encoding, files)


def _open_kept(path: Path, encoding: str, files: Sequence[Path]) -> NoteStore:
    """The converted notes from the cache folder, converted now where they are not there or damaged."""
    if path.exists():
        try:
            return NoteStore(pa.memory_map(str(path)))
        except (pa.ArrowException, OSError) as error:
            logger.warning("%s is damaged (%s); converting the notes again", path, str(error).splitlines()[0])
    logger.info("converting the notes of %s for random access, once", files[0].parent)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        with pa.OSFile(name, "wb") as sink:
            _convert(encoding, files, sink)
        temporary.replace(path)
        return NoteStore(pa.memory_map(str(path)))
    except OSError as error:
        raise QilinError(
            f"the notes can't be converted in {path.parent}: {os.strerror(error.errno) if error.errno else error}; "
            "name a folder with space for them in QILIN_RAG_CACHE"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _convert(encoding: str, files: Sequence[Path], sink: pa.NativeFile) -> None:
    """Write all notes as one Arrow file, with the digest of each."""
    columns = present_columns(encoding, files, _TABLE)
    others = [name for name in columns if name not in _TEXT]
    schema = pa.schema([(name, _TABLE.columns.get(name, pa.binary(32))) for name in (*_TEXT, *others)])
    note_idxs: list[npt.NDArray[np.int64]] = []
    with pa.ipc.new_file(sink, schema) as writer:
        for path in files:
            for batch in read_batches(encoding, path, _TABLE):
                rows = with_columns(batch.rows, schema)
                if (missing := rows.column(0).is_null()).true_count:
                    stop(Defect(path, batch.place(missing.index(True).as_py()), "note_idx", "is missing"))
                texts = [pc.fill_null(column, "") for column in rows.columns[1:3]]
                lines = zip(*(column.to_pylist() for column in (rows.column(0), *texts)), strict=True)
                digests = pa.array([note_digest(*line) for line in lines], pa.binary(32))
                arrays = [rows.column(0), *texts, digests, *rows.columns[4:]]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
                note_idxs.append(rows.column(0).to_numpy())
    _refuse_doubles(note_idxs, encoding, files)


def _refuse_doubles(note_idxs: Sequence[npt.NDArray[np.int64]], encoding: str, files: Sequence[Path]) -> None:
    """A UsageError that names both places of an id that is there twice."""
    ids, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *note_idxs]), return_counts=True)
    if not (counts > 1).any():
        return
    double = int(ids[counts > 1][0])
    first: tuple[Path, str] | None = None
    for path in files:
        for batch in read_batches(encoding, path, _TABLE, ["note_idx"]):
            for row in np.flatnonzero(batch.rows.column(0).to_numpy() == double).tolist():
                if first is None:
                    first = path, batch.place(row)
                else:
                    where = first[1] if first[0] == path else f"{first[1]} of {first[0].name}"
                    stop(Defect(path, batch.place(row), "note_idx", f"{double} is already on {where}"))
