"""Find the bytes of images: in folders, or in archives `part_<k>.tar.gz`, never outside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import expanded
from qilin_rag.core.plain_files import is_plain, open_plain
from qilin_rag.data.image_archives import ImageArchive
from qilin_rag.data.image_names import FOLDER, place_in_archive, spellings
from qilin_rag.data.pictures import MAX_FILE_BYTES, ImageState, decode
from qilin_rag.data.tape import SUFFIXES, is_compressed

if TYPE_CHECKING:
    from PIL.Image import Image

ELSEWHERE = "QILIN_RAG_IMAGES"
_MOST_OPEN = 8  # archives; the index of one of 4 GB takes 16 MB


class ImageFiles:
    """Reads image files by their names in the table of notes.

    A file is looked for in the folder of the data, then in the folder that QILIN_RAG_IMAGES names; in each, unpacked
    first, then in an archive.
    """

    def __init__(self, folder: Path) -> None:
        """Set the folder of the data.

        Args:
            folder: The folder.

        Raises:
            UsageError: if QILIN_RAG_IMAGES names no folder, or there are archives that this Python can't read.
        """
        self._roots = [folder.resolve()]
        if named := os.environ.get(ELSEWHERE):
            elsewhere = expanded(named)
            if not elsewhere.is_dir():
                raise UsageError(
                    f"{ELSEWHERE}={named!r} is not a folder; name the one that holds image/ or part_N.tar.gz"
                )
            self._roots.append(elsewhere.resolve())
        self._archive = lru_cache(_MOST_OPEN)(ImageArchive)
        for archive in self.archives():
            if is_compressed(archive) and not archive.with_name(archive.name.partition(".")[0]).is_dir():
                require("images", "indexed_gzip", what=f"reading {archive.name} without unpacking it")
                break

    def archives(self) -> Iterator[Path]:
        """Yield the archives of images, in the order of their names in each folder."""
        for root in self._roots:
            for base in (root, root / FOLDER):
                names = sorted(path.name for suffix in SUFFIXES for path in base.glob(f"part_*{suffix}"))
                paths = (_below(root, (base / name).relative_to(root).as_posix()) for name in names)
                yield from (path for path in paths if path and is_plain(path))

    def picture(
        self, name: str, fits: Callable[[int, int], bool], longest_side: int | None = None
    ) -> tuple[Image | None, ImageState]:
        """Return an image in RGB as `decode` does, or None and the reason.

        Args:
            name: The name in the table of notes.
            fits: `fits(width, height)` returns whether a picture of this shape is wanted.
            longest_side: The most pixels of the longer side.
        """
        content, state = self.read(name)
        return decode(content, fits, longest_side) if state is ImageState.READ else (None, state)

    def read(self, name: str) -> tuple[bytes, ImageState]:
        """Return the content of an image file, or nothing and the reason.

        Args:
            name: The name in the table of notes.
        """
        for root in self._roots:
            for spelling in spellings(name):
                content, state = _read_file(root, spelling)
                if state is not ImageState.MISSING:
                    return content, state
            content, state = self._read_archived(root, name)
            if state is not ImageState.MISSING:
                return content, state
        return b"", ImageState.MISSING

    def _read_archived(self, root: Path, name: str) -> tuple[bytes, ImageState]:
        if (place := place_in_archive(name)) is None:
            return b"", ImageState.MISSING
        for base in ("", f"{FOLDER}/"):
            for suffix in SUFFIXES:
                if (path := _below(root, f"{base}{place.archive}{suffix}")) is None:
                    return b"", ImageState.OUTSIDE
                if is_plain(path):
                    found = path.stat()
                    return self._archive(path, found.st_size, found.st_mtime_ns).read(place.member)
        return b"", ImageState.MISSING


def _read_file(root: Path, name: str) -> tuple[bytes, ImageState]:
    if (path := _below(root, name)) is None:
        return b"", ImageState.OUTSIDE
    try:
        with open_plain(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, UsageError):  # a name that is too long, a failing disk; a folder, a pipe
        return b"", ImageState.MISSING
    return (content, ImageState.READ) if len(content) <= MAX_FILE_BYTES else (b"", ImageState.TOO_LARGE)


def _below(root: Path, name: str) -> Path | None:
    """Return the target of a name in a table; None unless it is below the folder after following links."""
    try:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
        return None
    return path if path.is_relative_to(root) else None
