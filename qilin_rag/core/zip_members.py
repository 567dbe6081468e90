"""Read JSON files out of a zip file that may come from a stranger, in memory and within limits.

Nothing is unpacked to disk, so a member's name can do no harm. Sizes are counted while unpacking, since those that the
zip file states may be lies.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from qilin_rag.core.errors import UsageError

MOST_DIRECTORY = 64 << 20
"""The most bytes of the list of members."""
MOST_MEMBER = 64 << 20
"""The most bytes of one member, unpacked."""
MOST_TOTAL = 2 << 30
"""The most bytes of all members that are read, unpacked."""
_ZSTD = 93
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1


class _Guarded(io.FileIO):
    """A file of which no one read takes more than the list of members may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = MOST_DIRECTORY + 1 if size is None or size < 0 else size
        found = super().read(min(wanted, MOST_DIRECTORY + 1)) or b""
        if len(found) > MOST_DIRECTORY:
            raise zipfile.BadZipFile("its list of members is too large")
        return found


class ZipMembers:
    """The JSON files in a zip file.

    Attributes:
        names: The names of all members, each once, in their order; of two members of one name the last counts.
    """

    def __init__(self, path: Path) -> None:
        """Read the list of members.

        Raises:
            UsageError: if it is not a zip file, or is damaged.
            OSError: if it can't be read.
        """
        self._path = path
        self._left = MOST_TOTAL
        self._file = _Guarded(path)
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            self._file.close()
            raise UsageError(f"{path} can't be read as a zip file: {error}") from None
        self._members = {member.filename: member for member in self._zip.infolist()}
        self.names = list(self._members)

    def __enter__(self) -> ZipMembers:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def read_json(self, name: str) -> Any:
        """Return the content of a member.

        Raises:
            UsageError: if it is damaged, too large, compressed in another way than by deflate or zstd, or not JSON.
        """
        where = f"{self._path}, {name[:100]!r}"
        try:
            content = self._unpacked(self._members[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, struct.error) as error:
            raise UsageError(f"{where}: damaged: {error}") from None
        if content is None:
            limit = f"{MOST_MEMBER >> 20} MiB a file and {MOST_TOTAL >> 30} GiB in all"
            raise UsageError(f"{where}: unpacks to more than is read of a zip file ({limit})")
        try:
            return json.loads(content)
        except (RecursionError, ValueError) as error:
            raise UsageError(f"{where}: not valid JSON: {error}") from None

    def _unpacked(self, member: zipfile.ZipInfo) -> bytes | None:
        """Return the bytes of a member; None if they are too many."""
        limit = min(MOST_MEMBER, self._left)
        if member.flag_bits & _ENCRYPTED:
            raise ValueError("it is encrypted")
        if member.compress_type == _ZSTD:
            content = self._unpacked_zstd(member, limit)
        elif member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with self._zip.open(member) as file:
                content = file.read(limit + 1)
        else:
            raise ValueError(f"compression {member.compress_type} is not read")
        self._left -= len(content)
        return content if len(content) <= limit else None

    def _unpacked_zstd(self, member: zipfile.ZipInfo, limit: int) -> bytes:
        """Unpack what Python's zipfile can't before 3.14."""
        import pyarrow

        self._file.seek(member.header_offset)
        signature, n_name, n_extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile("no member at its place")
        self._file.seek(n_name + n_extra, io.SEEK_CUR)
        packed = self._file.read(min(member.compress_size, MOST_MEMBER))
        try:
            with pyarrow.input_stream(pyarrow.BufferReader(packed), compression="zstd") as stream:
                content: bytes = stream.read(limit + 1)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(error) from None
        if len(content) <= limit and zlib.crc32(content) != member.CRC:
            raise zipfile.BadZipFile("its checksum is wrong")
        return content
