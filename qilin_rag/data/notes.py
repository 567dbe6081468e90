"""NoteStore: random access to two million notes in a memory-mapped file.

A corpus in any encoding is converted once, streamed, to one Arrow file in the cache folder (a small corpus in memory),
with the digest of each note beside it. Memory holds only the id and the file position of each note.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.core.arrays import positions_in
from qilin_rag.core.cache import cache_dir, in_use, make_room
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.files import atomic_folder
from qilin_rag.core.hashing import json_digest, json_hash
from qilin_rag.core.note_fields import IMAGE_TEXT, TITLE_AND_CONTENT, NoteField
from qilin_rag.core.types import Note
from qilin_rag.data.arrow_arrays import rows_array, without_nulls
from qilin_rag.data.encodings import present_columns, read_batches, with_columns
from qilin_rag.data.note_texts import NoteTexts, refuse_doubles
from qilin_rag.data.schema import NOTE_ID, TABLES
from qilin_rag.data.source import Source
from qilin_rag.data.text_files import Defect, stop

logger = logging.getLogger(__name__)

_VERSION = 2  # version of the cached files; raise it when their content changes
_LARGEST_IN_MEMORY_BYTES = 16 * 2**20
_GROUP_ROWS = 256  # few rows, so that the fields of a note are close together: reading it touches few pages
_TABLE = TABLES["notes"]
_TEXT = ("note_idx", "note_title", "note_content")
_DATA_SHA256 = "data_sha256.txt"


class NoteStore:
    """All notes of a corpus, without holding them as Python objects.

    Attributes:
        images: The folder that the notes' image paths are relative to; None if it is not known.
        fields: The fields that make the text of a note.
    """

    images: Path | None = None
    fields: tuple[NoteField, ...] = TITLE_AND_CONTENT

    def __init__(
        self,
        open_file: Callable[[bool], pa.NativeFile],
        note_idxs: npt.NDArray[np.int64],
        digests: npt.NDArray[np.void],
        data_sha256: str | None = None,
    ) -> None:
        """Set the file and the ids.

        Args:
            open_file: `open_file(mapped)` opens an Arrow file of notes, memory-mapped or for sequential reading. Its
                groups have equal lengths, except the last.
            note_idxs: The ids in the order of the file, shape (n_notes,).
            digests: The digests in the order of the file, shape (n_notes,).
            data_sha256: The hash of the data's own titles and contents; None if these are what is read.
        """
        self._open_file = open_file
        self._note_idxs = note_idxs
        self._digests = digests
        self._data_sha256 = data_sha256
        self._order = np.argsort(note_idxs, kind="stable")
        self._sorted = note_idxs[self._order]
        self._ascending = self._sorted.data
        self._text = self._reader(_TEXT)
        self._groups: dict[int, list[pa.Array]] = {}
        n_groups = -(-len(note_idxs) // _GROUP_ROWS)
        if len(digests) != len(note_idxs) or self._text.num_record_batches != n_groups:
            raise pa.ArrowInvalid(f"{len(note_idxs)} ids, {len(digests)} digests, {n_groups} groups do not match")

    @property
    def note_idxs(self) -> npt.NDArray[np.int64]:
        """Return the ids of all notes in storage order, shape (n_notes,)."""
        return self._note_idxs

    @property
    def digests(self) -> npt.NDArray[np.void]:
        """Return the 32-byte digest of each note's text, in storage order, shape (n_notes,)."""
        return self._digests

    @cached_property
    def sha256(self) -> str:
        """Return the hash of the notes' texts as they are read, independent of their layout and order in storage."""
        return _hash(self._digests, self._order)

    @property
    def data_sha256(self) -> str:
        """Return the hash of the data's own titles and contents, whichever fields are read."""
        return self._data_sha256 or self.sha256

    @cached_property
    def columns(self) -> list[str]:
        """Return the columns of the notes, for `read`."""
        return list(pa.ipc.open_file(self._open_file(True)).schema.names)

    @cached_property
    def has_text_ids(self) -> bool:
        """Return whether the id of any note is text; its `note_idx` is then a number made from the text."""
        return NOTE_ID in self.columns

    def text_ids(self, note_idxs: Sequence[int]) -> dict[int, str]:
        """Return the text ids of those of these notes that exist and have one."""
        if not self.has_text_ids:
            return {}
        missing = set(self.missing(note_idxs))
        there = [note_idx for note_idx in note_idxs if note_idx not in missing]
        found = self.read(there, ["note_idx", NOTE_ID]).to_pylist()
        return {row["note_idx"]: row[NOTE_ID] for row in found if row[NOTE_ID] is not None}

    def __len__(self) -> int:
        return len(self._note_idxs)

    def __iter__(self) -> Iterator[Note]:
        """Yield all notes in storage order, freeing the memory of read ones."""
        reader = self._reader(_TEXT, mapped=False)
        for i in range(reader.num_record_batches):
            columns = [column.to_pylist() for column in reader.get_batch(i).columns]
            for note_idx, title, content in zip(*columns, strict=True):
                yield Note(note_idx=note_idx, title=title, content=content)

    def texts(self, start: int, stop: int) -> pa.RecordBatch:
        """Return title and content of the notes at these storage positions as columns, freeing the memory."""
        reader = self._reader(_TEXT[1:], mapped=False)
        first = start // _GROUP_ROWS
        groups = [reader.get_batch(group) for group in range(first, -(-stop // _GROUP_ROWS))]
        none = pa.RecordBatch.from_pylist([], schema=reader.schema)
        return pa.concat_batches([none, *groups]).slice(start - first * _GROUP_ROWS, stop - start)

    def missing(self, note_idxs: Sequence[int] | npt.NDArray[np.int64]) -> list[int]:
        """Return the ids among these that no note has, in order and without repeats."""
        wanted = np.unique(np.asarray(note_idxs, dtype=np.int64))
        return [int(note_idx) for note_idx in wanted[self._slots(wanted) < 0]]

    def slots(self, note_idxs: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the storage positions of the named notes.

        Raises:
            UsageError: if a note does not exist; the error names it.
        """
        slots = self._slots(note_idxs)
        if (slots < 0).any():
            raise UsageError(f"the data has no note {', '.join(map(str, self.missing(note_idxs)[:10]))}")
        return slots

    def get(self, note_idxs: Sequence[int]) -> list[Note]:
        """Return the named notes, in the given order.

        Raises:
            UsageError: if a note does not exist; the error names it.
        """
        notes = []
        for note_idx in note_idxs:
            place = bisect_left(self._ascending, note_idx)  # for a few notes quicker than `slots`
            if place == len(self._ascending) or self._ascending[place] != note_idx:
                self.slots(note_idxs)  # raises the error
            slot = int(self._order[place])
            group, row = divmod(slot, _GROUP_ROWS)
            if group not in self._groups:  # mapped, not read: the memory is that of a few small objects
                self._groups[group] = self._text.get_batch(group).columns
            _, titles, contents = self._groups[group]
            notes.append(Note(note_idx=int(note_idx), title=titles[row].as_py(), content=contents[row].as_py()))
        return notes

    def read(self, note_idxs: Sequence[int] | npt.NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns (default: all) of the named notes, one row per note in the given order."""
        reader = self._reader(columns or self.columns)
        groups, rows = np.divmod(self.slots(note_idxs), _GROUP_ROWS)
        parts = [reader.schema.empty_table()]
        for group in np.unique(groups).tolist():
            batch = reader.get_batch(group).take(rows_array(rows[groups == group]))
            parts.append(pa.Table.from_batches([batch]))
        back = np.argsort(np.argsort(groups, kind="stable"), kind="stable")
        return pa.concat_tables(parts).take(rows_array(back)).select(list(columns or self.columns))

    def _reader(self, columns: Sequence[str], mapped: bool = True) -> pa.ipc.RecordBatchFileReader:
        """Open a reader of these columns alone."""
        source = self._open_file(mapped)
        if unknown := set(columns) - set(self.columns):
            raise UsageError(f"the notes have no column {sorted(unknown)[0]!r}; they have {', '.join(self.columns)}")
        fields = [self.columns.index(name) for name in columns]
        return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=sorted(fields)))

    def _slots(self, note_idxs: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the storage position of each note; -1 if it does not exist."""
        wanted = np.asarray(note_idxs, dtype=np.int64)
        slots = positions_in(self._sorted, wanted)
        is_there = slots >= 0
        slots[is_there] = self._order[slots[is_there]]
        return slots


def note_digest(note_idx: int, title: str, content: str) -> bytes:
    """Return a 32-byte digest of a note's text."""
    return json_digest([note_idx, title, content], sort_keys=False, ensure_ascii=False)


def _hash(digests: npt.NDArray[np.void], order: npt.NDArray[np.int64]) -> str:
    return hashlib.sha256(digests[order].tobytes()).hexdigest()


def open_notes(
    encoding: str,
    files: Sequence[Path],
    images: Path | None = None,
    fields: Sequence[NoteField] = TITLE_AND_CONTENT,
    image_text: tuple[str, Sequence[Path]] = ("", ()),
) -> NoteStore:
    """Open the notes of these files.

    Args:
        encoding: The encoding of the files.
        files: The files of the table notes.
        images: The folder that image paths are relative to.
        fields: The fields that make the text of a note.
        image_text: The encoding and files of the table image_text, if it is read and not a column of the notes.

    Raises:
        UsageError: if the files have a defect; the error names the first one with file, row and column.
    """
    store = _open(_Tables(encoding, files, tuple(fields), image_text))
    store.images, store.fields = images, tuple(fields)
    return store


def _open(tables: _Tables) -> NoteStore:
    try:
        stats = [path.stat() for path in tables.all_files]
    except OSError as error:
        raise UsageError(f"{error.filename} can't be read: {error.strerror}") from error
    if sum(stat.st_size for stat in stats) <= _LARGEST_IN_MEMORY_BYTES:
        sink = pa.BufferOutputStream()
        note_idxs, digests, data_sha256 = _convert(tables, sink)
        buffer = sink.getvalue()
        return NoteStore(lambda mapped: pa.BufferReader(buffer), note_idxs, digests, data_sha256)
    file_facts = [
        [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        for path, stat in zip(tables.all_files, stats, strict=True)
    ]
    made_of = [_VERSION, file_facts, *([list(tables.fields)] if tables.is_composing else [])]
    key = json_hash(made_of, sort_keys=False, ensure_ascii=True)
    folder = cache_dir() / "notes" / key[:24]
    try:
        return _open_kept(folder)
    except FileNotFoundError:
        logger.info("converting the notes of %s for random access, once", tables.files[0].parent)
    except (pa.ArrowException, OSError, ValueError) as error:
        logger.warning("%s is damaged (%s); converting the notes again", folder, str(error).splitlines()[0])
    try:
        _keep(tables, folder)
        store = _open_kept(folder)
        make_room()
        return store
    except OSError as error:
        raise QilinError(
            f"the notes can't be converted in {folder.parent}: {os.strerror(error.errno) if error.errno else error}; "
            "name a folder with space for them in QILIN_RAG_CACHE"
        ) from error


def hold_notes(notes: Sequence[Note]) -> NoteStore:
    """Return a store of notes that are in no file."""
    schema = pa.schema([(name, _TABLE.readable[name]) for name in _TEXT])
    lines = [(note.note_idx, note.title, note.content) for note in notes]
    columns = [pa.array([line[i] for line in lines], field.type) for i, field in enumerate(schema)]
    rows = pa.table(columns, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for group in rows.to_batches(max_chunksize=_GROUP_ROWS):
            writer.write_batch(group)
    buffer = sink.getvalue()
    digests = np.frombuffer(b"".join(note_digest(*line) for line in lines), "V32")
    return NoteStore(lambda mapped: pa.BufferReader(buffer), rows.column(0).to_numpy(), digests)


def open_notes_of(source: Source, fields: Sequence[NoteField] = TITLE_AND_CONTENT) -> NoteStore:
    """Open the notes of a source, whose text is made of these fields.

    Raises:
        UsageError: if the data does not have a field, or a file has a defect.
    """
    notes = source.files("notes")
    if IMAGE_TEXT not in fields:
        return open_notes(*notes, source.folder, fields)
    is_column = IMAGE_TEXT in present_columns(*notes, _TABLE)
    is_table = IMAGE_TEXT in source.tables()
    if is_column and is_table:
        raise UsageError(
            f"data {source.given!r} has {IMAGE_TEXT} twice, as a table and as a column of notes; remove one of them"
        )
    if not (is_column or is_table):
        raise UsageError(
            f"data {source.given!r} has no {IMAGE_TEXT}, which note_fields (--note-fields) names; "
            f"to read it from the images: qilin-rag data ocr {shlex.quote(source.given)}"
            f"{' --out FOLDER, then --data FOLDER' if source.is_bundled and not source.beside else ''}"
        )
    return open_notes(*notes, source.folder, fields, source.files(IMAGE_TEXT) if is_table else ("", ()))


def _open_kept(folder: Path) -> NoteStore:
    """Open notes that were converted before; errors of numpy and pyarrow pass if files are incomplete."""
    path = str(folder / "notes.arrow")
    note_idxs = np.load(folder / "note_idxs.npy", allow_pickle=False)
    digests = np.load(folder / "sha256.npy", mmap_mode="r", allow_pickle=False)
    of_data = folder / _DATA_SHA256
    data_sha256 = of_data.read_text(encoding="ascii") if of_data.exists() else None
    store = NoteStore(
        lambda mapped: pa.memory_map(path) if mapped else pa.OSFile(path), note_idxs, digests, data_sha256
    )
    in_use(folder, by=store)
    return store


def _keep(tables: _Tables, folder: Path) -> None:
    """Convert to a temporary folder and rename it, so that another process finds all of it, or nothing."""
    with atomic_folder(folder) as temporary:
        with pa.OSFile(str(temporary / "notes.arrow"), "wb") as sink:
            note_idxs, digests, data_sha256 = _convert(tables, sink)
        np.save(temporary / "note_idxs.npy", note_idxs)
        np.save(temporary / "sha256.npy", digests)
        if data_sha256 is not None:
            (temporary / _DATA_SHA256).write_text(data_sha256, encoding="ascii")
        shutil.rmtree(folder, ignore_errors=True)


class _Tables(NamedTuple):
    """The files that notes are read from.

    Attributes:
        fields: The fields that make the text of a note.
        image_text: The encoding and files of the table image_text, if it is read.
    """

    encoding: str
    files: Sequence[Path]
    fields: tuple[NoteField, ...]
    image_text: tuple[str, Sequence[Path]]

    @property
    def all_files(self) -> list[Path]:
        """Return the files that are read."""
        return [*self.files, *self.image_text[1]]

    @property
    def is_composing(self) -> bool:
        """Return whether the text of a note is not simply its title and content."""
        return self.fields != TITLE_AND_CONTENT


def _convert(tables: _Tables, sink: pa.NativeFile) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.void], str | None]:
    """Write the file; return ids and digests, shape (n_notes,) each, and the hash of the data's own texts."""
    columns = present_columns(tables.encoding, tables.files, _TABLE)
    schema = pa.schema([(name, _TABLE.readable[name]) for name in dict.fromkeys([*_TEXT, *columns])])
    texts = NoteTexts(tables.fields, *tables.image_text) if tables.is_composing else None
    note_idxs: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    digests, own_digests = bytearray(), bytearray()

    def checked() -> Iterator[pa.RecordBatch]:
        for path in tables.files:
            for batch in read_batches(tables.encoding, path, _TABLE):
                rows = with_columns(batch.rows, schema)
                if rows.column(0).null_count:
                    place = batch.place(rows.column(0).is_null().index(True).as_py())
                    stop(Defect(path, place, "note_idx", "is missing"))
                read = [rows.column(0), *map(without_nulls, rows.columns[1:3])]
                if texts is not None:
                    own_digests.extend(_digests(read))
                    own = pa.RecordBatch.from_arrays([*read, *rows.columns[3:]], schema=schema)
                    read = [rows.column(0), *texts.compose(own)]
                digests.extend(_digests(read))
                note_idxs.append(np.array(np.from_dlpack(rows.column(0)), np.int64))
                yield pa.RecordBatch.from_arrays([*read, *rows.columns[3:]], schema=schema)

    with pa.ipc.new_file(sink, schema) as writer:
        for group in _regrouped(checked(), _GROUP_ROWS):
            writer.write_batch(group)
    all_idxs = np.concatenate(note_idxs)
    refuse_doubles(all_idxs, tables.encoding, tables.files, _TABLE)
    own = np.frombuffer(bytes(own_digests), "V32")
    of_data = _hash(own, np.argsort(all_idxs)) if texts is not None else None
    return all_idxs, np.frombuffer(bytes(digests), "V32"), of_data


def _digests(columns: Sequence[pa.Array]) -> bytes:
    """Return the digests of notes, one after the other, from their ids, titles and contents."""
    return b"".join(note_digest(*line) for line in zip(*(column.to_pylist() for column in columns), strict=True))


def _regrouped(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of this size; only the last may be shorter."""
    rest: list[pa.RecordBatch] = []
    for batch in batches:
        rest.append(batch)
        n_rows = sum(map(len, rest))
        if n_rows >= size:
            table = pa.Table.from_batches(rest)
            whole = n_rows - n_rows % size
            yield from table.slice(0, whole).combine_chunks().to_batches(max_chunksize=size)
            rest = table.slice(whole).to_batches()
    if rest:
        yield from pa.Table.from_batches(rest).combine_chunks().to_batches(max_chunksize=size)
