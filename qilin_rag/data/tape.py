"""Walk through the headers of a tar archive from outside: no error passes, time and memory are bounded."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qilin_rag.core.progress import Advance

SUFFIXES = (".tar.gz", ".tgz", ".tar")
_MIB = 2**20
_MOST_HEADER_BYTES = _MIB  # of one member: long names and other attributes
MOST_EXPANSION = 8  # images hardly shrink; an archive that grows more is an attack
HARMLESS_BYTES = 2**30
_MOST_MEMBERS = 5_000_000


def is_compressed(archive: Path) -> bool:
    """Return whether the name of an archive says that it is compressed.

    Args:
        archive: The archive.
    """
    return archive.suffix != ".tar"


class Tape:
    """The members of an archive, in their order. Iterate over it once; afterwards `fault` says what was wrong.

    It stands between tarfile and the file. tarfile reads a header of any size that an archive claims, and its members
    can lead it back.
    """

    fault: str = ""
    """Why not all of the archive could be read; empty if it was read to its end."""

    def __init__(self, file: Any, is_compressed: bool, size: int, advance: Advance) -> None:
        """Set the file, uncompressed to readers.

        Args:
            file: The open file.
            is_compressed: Whether it is read through, because it can't be entered elsewhere yet.
            size: The bytes of the archive on disk.
            advance: Receives the progress, in MiB.
        """
        self._file, self._is_compressed, self._advance = file, is_compressed, advance
        self._most_bytes = max(HARMLESS_BYTES, MOST_EXPANSION * size)
        self._n_told, self._n_steps = 0, -(-size // _MIB)
        self._at = self._header_bytes = 0
        self._block = self._again = b""

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Yield all members but folders."""
        try:
            with tarfile.open(fileobj=self, mode="r:", encoding="utf-8") as archive:  # type: ignore[call-overload]
                for number in range(_MOST_MEMBERS + 1):
                    self._header_bytes = 0
                    member = archive.next()
                    if member is None:
                        break
                    if number == _MOST_MEMBERS:
                        raise tarfile.ReadError(f"more than {_MOST_MEMBERS} members")
                    if member.size < 0:
                        raise tarfile.ReadError("a member with a negative size")
                    if not member.isdir():
                        yield member
                    archive.members.clear()  # it keeps all
                    archive.pax_headers.clear()
            if self._block.strip(b"\0"):
                self.fault = "the header of a member is damaged"
            elif not self._block:
                self.fault = "it ends early"
        except Exception as error:  # errors of several libraries
            self.fault = str(error) or type(error).__name__
        self._advance(self._n_steps - self._n_told)

    def read(self, n_bytes: int) -> bytes:
        """Return the next bytes of a header, for tarfile.

        Args:
            n_bytes: The bytes to read.
        """
        self._header_bytes += n_bytes
        if not 0 <= n_bytes <= self._header_bytes <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of more than {_MOST_HEADER_BYTES} bytes")
        if self._again:
            self._again = b""
            return self._block[-1:]
        self._block = self._file.read(n_bytes)
        self._at += len(self._block)
        return self._block

    def seek(self, position: int) -> None:
        """Move to the next header, for tarfile.

        Args:
            position: The byte to go to. It may be the last one that was read, which tarfile checks to exist.
        """
        if position == self._at - 1:
            self._again = self._block[-1:]
            return
        if position < self._at:
            raise tarfile.ReadError("a member that leads back")
        if position > self._most_bytes:
            raise tarfile.ReadError(f"more than {self._most_bytes // _MIB} MiB of content")
        if not self._is_compressed:
            self._at = self._file.seek(position)
        while self._at < position:
            if not (skipped := self._file.read(min(_MIB, position - self._at))):
                raise tarfile.ReadError("it ends early")
            self._at += len(skipped)
            self._tell_progress()
        self._tell_progress()

    def tell(self) -> int:
        """Return the position, for tarfile."""
        return self._at - len(self._again)

    def _tell_progress(self) -> None:
        n_new = min(self._n_steps, self._at // _MIB) - self._n_told
        if n_new > 0:
            self._advance(n_new)
            self._n_told += n_new
