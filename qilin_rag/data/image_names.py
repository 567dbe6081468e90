"""Names of images: how a name in the table of notes is looked for in folders and archives, defined once.

Qilin's names are `image/part_<k>/<note>/<file>`. The folder `image` may be absent, an archive `part_<k>` may hold its
files with or without `image/` and `part_<k>/` before them, and any name may begin with `./`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

FOLDER = "image"
_PART = re.compile(r"part_[0-9]{1,9}", re.ASCII)
_MOST_CHARS = 4096
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8


class PlaceInArchive(NamedTuple):
    """The archive that may hold an image, without its suffix, and the name in its index."""

    archive: str
    member: str


def spellings(name: str) -> list[str]:
    """Return the paths below a folder of data at which an image may be, the likeliest first.

    Args:
        name: The name in the table. One that leads outside is returned as it is.

    Example:
        >>> spellings("./image/part_7/1/2.webp")
        ['./image/part_7/1/2.webp', 'part_7/1/2.webp', 'image/part_7/1/2.webp']
    """
    parts = _parts(name)
    if not parts:
        return [name]
    rest = "/".join(parts)
    return list(dict.fromkeys([name, rest, f"{FOLDER}/{rest}"]))


def place_in_archive(name: str) -> PlaceInArchive | None:
    """Return the place of an image among archives; None if its name does not say in which part it is.

    Args:
        name: The name in the table.

    Example:
        >>> place_in_archive("image/part_7/1/2.webp")
        PlaceInArchive(archive='part_7', member='part_7/1/2.webp')
    """
    parts = _parts(name)
    return PlaceInArchive(parts[0], "/".join(parts)) if len(parts) > 1 and _PART.fullmatch(parts[0]) else None


def name_in_index(member: str, archive: str) -> str | None:
    """Return the name of a member in the index of its archive; None if it leads outside or can't be in a table.

    Args:
        member: The name in the archive.
        archive: The name of the archive without its suffix, such as `part_7`.

    Example:
        >>> name_in_index("./1/2.webp", "part_7"), name_in_index("../part_7/1/2.webp", "part_7")
        ('part_7/1/2.webp', None)
    """
    parts = _parts(member)
    if not parts:
        return None
    return "/".join(parts if _PART.fullmatch(parts[0]) else (archive, *parts))


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a name below the folder of images; none if it leads outside or is no name of a file."""
    if len(name) > _MOST_CHARS or _NOT_IN_NAMES.search(name):
        return ()
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return ()
    return path.parts[1:] if path.parts[:1] == (FOLDER,) else path.parts
