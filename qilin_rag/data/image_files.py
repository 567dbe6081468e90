"""Find the bytes of images: in folders, or in archives `part_<k>.tar.gz`, never outside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import expanded
from qilin_rag.core.plain_files import is_plain, open_plain
from qilin_rag.data.image_archives import ImageArchive
from qilin_rag.data.image_names import FOLDER, place_in_archive, spellings
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.pictures import MAX_FILE_BYTES, ImageState, decode
from qilin_rag.data.tape import SUFFIXES, is_compressed

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_PATH = "image_path"
"""The column of the notes that names their images."""
ELSEWHERE = "QILIN_RAG_IMAGES"
_MOST_OPEN = 8  # archives; the index of one of 4 GB takes 16 MB


class _ImagePlace(NamedTuple):
    """A file that is an image, or an archive with the name of a member; no path leads outside."""

    path: Path | None
    member: str


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
            UsageError: if QILIN_RAG_IMAGES names no folder.
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

    def check_readable(self) -> None:
        """Raise a UsageError if a package that reads the archives is not installed, before any is needed."""
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
        self, name: str | None, fits: Callable[[int, int], bool], longest_side: int | None = None
    ) -> tuple[Image | None, ImageState]:
        """Return an image in RGB as `decode` does, or None and the reason.

        Args:
            name: The name in the table of notes; None if that has none.
            fits: `fits(width, height)` returns whether a picture of this shape is wanted.
            longest_side: The most pixels of the longer side.
        """
        if name is None:
            return None, ImageState.NONE
        content, state = self.read(name)
        return decode(content, fits, longest_side) if state is ImageState.READ else (None, state)

    def read(self, name: str) -> tuple[bytes, ImageState]:
        """Return the content of an image file, or nothing and the reason.

        Args:
            name: The name in the table of notes.
        """
        for place in self._places(name):
            if place.path is None:
                return b"", ImageState.OUTSIDE
            content, state = self._read_archived(place.path, place.member) if place.member else _read_file(place.path)
            if state is not ImageState.MISSING:
                return content, state
        return b"", ImageState.MISSING

    def kind_of_place(self, name: str) -> str:
        """Return the kind of an image's place, without a look into archives: in folders, in archives, missing, outside.

        Args:
            name: The name in the table of notes.
        """
        place = next(self._places(name), None)
        if place is None:
            return ImageState.MISSING.reason
        if place.path is None:
            return ImageState.OUTSIDE.reason
        return "in archives" if place.member else "in folders"

    def _places(self, name: str) -> Iterator[_ImagePlace]:
        """Yield the plain files that may be an image or hold it, until one leads outside."""
        archived = place_in_archive(name)
        names = [(spelling, "") for spelling in spellings(name)]
        if archived:
            suffixes = [f"{base}{archived.archive}{suffix}" for base in ("", f"{FOLDER}/") for suffix in SUFFIXES]
            names += [(each, archived.member) for each in suffixes]
        for root in self._roots:
            for each, member in names:
                path = _below(root, each)
                if path is None or is_plain(path):
                    yield _ImagePlace(path, member)

    def _read_archived(self, path: Path, member: str) -> tuple[bytes, ImageState]:
        try:
            found = path.stat()
        except OSError:  # it was removed just now
            return b"", ImageState.MISSING
        return self._archive(path, found.st_size, found.st_mtime_ns).read(member)


def open_image_files(notes: NoteStore, advice: str = "name data with images") -> ImageFiles:
    """Open the image files that notes name.

    Args:
        notes: The notes, which know the folder of their images.
        advice: What to do if they have none, for the error.

    Raises:
        UsageError: if the notes have no images, or a package that reads them is not installed.
    """
    if notes.images is None or IMAGE_PATH not in notes.columns:
        raise UsageError(f"the notes of this data have no {IMAGE_PATH}; {advice}")
    require("images", "PIL", what="reading images of notes")
    files = ImageFiles(notes.images)
    files.check_readable()
    return files


def _read_file(path: Path) -> tuple[bytes, ImageState]:
    try:
        with open_plain(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                return b"", ImageState.TOO_LARGE
            content = file.read(MAX_FILE_BYTES + 1)  # it may grow
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
