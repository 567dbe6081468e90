"""Read files in tar archives, also compressed ones, without unpacking them: by an index that is built once.

A gzip file can only be entered at checkpoints. indexed_gzip makes one for every 8 MiB of content (32 kB each, 0.4% of
the archive), so that a file is read by decompressing 8 MiB at most. Python's own zlib can't: it neither stops between
blocks nor starts inside a byte. The index is a folder in the cache, under a hash of the archive's path, size and time.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from qilin_rag.core.cache import cache_dir, in_use, make_room
from qilin_rag.core.errors import QilinError
from qilin_rag.core.extras import require
from qilin_rag.core.files import atomic_folder
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.plain_files import open_plain
from qilin_rag.core.progress import stage
from qilin_rag.data.image_names import name_in_index
from qilin_rag.data.pictures import MAX_FILE_BYTES, ImageState
from qilin_rag.data.tape import Tape, is_compressed

logger = logging.getLogger(__name__)

_VERSION = 1  # of the index; raise it when its content changes
_SPACING_BYTES = 8 * 2**20
_INDEXING_BYTES = 4 * _SPACING_BYTES  # each read begins at a checkpoint, so few large ones are faster
_CHECKPOINTS, _MEMBERS = "checkpoints", "members.sqlite"
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE members (name TEXT PRIMARY KEY, start INTEGER, size INTEGER, state INTEGER) WITHOUT ROWID;
CREATE TABLE counts (what TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
"""
FILES, CUT_OFF = "files", "cut off or damaged"


class ImageArchive:
    """An archive of images, read by its index. Any process and thread may use it."""

    counts: Counter[str]
    """The number of files, and of members that are never read, by reason."""

    def __init__(self, path: Path, size: int, mtime_ns: int) -> None:
        """Open an archive; index it first unless that was done before.

        Args:
            path: The archive, a plain file.
            size: Its bytes.
            mtime_ns: Its time of change, in nanoseconds.

        Raises:
            UsageError: if it is compressed, and indexed_gzip is not installed.
            QilinError: if the index can't be written.
        """
        if is_compressed(path):
            require("images", "indexed_gzip", what=f"reading {path.name} without unpacking it")
        self._path = path
        key = json_hash([_VERSION, str(path), size, mtime_ns], sort_keys=False, ensure_ascii=True)
        self._folder = cache_dir() / "archives" / key[:24]
        try:
            self._file = self._open_indexed(size)
        except OSError as error:
            raise QilinError(
                f"{path} can't be indexed in {self._folder.parent}: {error.strerror or error}; "
                "name a folder with space for the index in QILIN_RAG_CACHE"
            ) from error

    def read(self, name: str) -> tuple[bytes, ImageState]:
        """Return the content of a file, or nothing and the reason.

        Args:
            name: The name in the index, see `place_in_archive`.
        """
        with self._database() as database:
            found = database.execute("SELECT start, size, state FROM members WHERE name = ?", [name]).fetchone()
        if found is None:
            return b"", ImageState.DAMAGED_ARCHIVE if CUT_OFF in self.counts else ImageState.MISSING
        start, size, state = found
        if state != ImageState.READ:
            return b"", ImageState(state)
        try:
            content = self._content(start, size)
        except Exception as error:  # the archive is damaged: errors of several libraries
            logger.debug("%s: %s", self._path, error)
            content = b""
        return (content, ImageState.READ) if len(content) == size else (b"", ImageState.DAMAGED_ARCHIVE)

    def _content(self, start: int, size: int) -> bytes:
        if is_compressed(self._path):
            content: bytes = self._file.pread(size, start)
            return content
        with open_plain(self._path) as file:
            file.seek(start)
            return file.read(size)

    def _open_indexed(self, size: int) -> Any:
        """Open the archive with its index. One process builds that, others wait."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder.with_name(f"{self._folder.name}.lock")):
            try:
                return self._open_kept()
            except FileNotFoundError:
                logger.info("indexing %s, once", self._path)
            except Exception as error:  # errors of several libraries
                logger.warning("the index of %s is damaged (%s); indexing it again", self._path, str(error))
            with atomic_folder(self._folder) as folder:
                self._build(folder, size)
                shutil.rmtree(self._folder, ignore_errors=True)
            file = self._open_kept()
        make_room()
        return file

    def _open_kept(self) -> Any:
        """Open the archive with the kept index; errors pass if there is none, or it is damaged."""
        (self._folder / _MEMBERS).stat()
        with self._database() as database:
            self.counts = Counter(dict(database.execute("SELECT what, n FROM counts")))
        if FILES not in self.counts:
            raise ValueError("it is not complete")
        in_use(self._folder, by=self)
        if not is_compressed(self._path):
            return None
        return self._open_compressed(2**16, index_file=str(self._folder / _CHECKPOINTS))

    def _open_compressed(self, buffer_size: int, **settings: Any) -> Any:
        """Open the archive, anew for each read, so that processes share no position."""
        import indexed_gzip

        settings |= {"spacing": _SPACING_BYTES, "buffer_size": buffer_size, "drop_handles": True}
        return indexed_gzip.IndexedGzipFile(self._path, **settings)

    def _database(self) -> closing[sqlite3.Connection]:
        """Open the table of files for one look: a connection must not cross to another thread or process."""
        address = (self._folder / _MEMBERS).absolute().as_uri()
        return closing(sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True))

    def _build(self, folder: Path, size: int) -> None:
        """Read the archive once; write the places of its files, and the checkpoints."""
        counts = Counter({FILES: 0})
        source: Any = self._open_compressed(_INDEXING_BYTES) if is_compressed(self._path) else open_plain(self._path)
        with (
            source as file,
            closing(sqlite3.connect(folder / _MEMBERS)) as database,
            stage(f"indexing {self._path.name}, MiB", -(-size // 2**20)) as advance,
        ):
            database.executescript(_SCHEMA)
            tape = Tape(file, is_compressed(self._path), size, advance)
            for member in tape:
                name = name_in_index(member.name, self._path.name.partition(".")[0])
                if not member.isreg() or member.issparse() or name is None:
                    counts["outside" if name is None else "links" if member.linkname else "other kinds"] += 1
                    continue
                state = ImageState.READ if member.size <= MAX_FILE_BYTES else ImageState.TOO_LARGE
                row = (name, member.offset_data, member.size, state)
                is_new = database.execute("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", row).rowcount
                counts[("files" if state == ImageState.READ else "too large") if is_new else "duplicates"] += 1
            if tape.fault:
                logger.warning("%s is cut off or damaged after %d files: %s", self._path, counts[FILES], tape.fault)
                counts[CUT_OFF] = 1
            database.executemany("INSERT INTO counts VALUES (?, ?)", counts.items())
            database.commit()
            if is_compressed(self._path):
                with suppress(Exception):  # the archive is damaged here: errors of several libraries
                    file.raw.seek(tape.tell())  # checkpoints are made up to the start of a read
                file.export_index(str(folder / _CHECKPOINTS))
        if others := ", ".join(f"{n} {what}" for what, n in sorted(counts.items()) if what not in (FILES, CUT_OFF)):
            logger.warning("%s: %d files; never read: %s", self._path, counts[FILES], others)
