"""Sources of data: the bundled samples, a folder, or the Hugging Face hub, each found as a folder of tables."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qilin_rag.core.downloads import is_forbidden, refuse_download
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded, read_json
from qilin_rag.core.note_fields import IMAGE_TEXT
from qilin_rag.data.encodings import ENCODINGS, SAVED_FILES, find_files
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.near_miss import near_miss
from qilin_rag.data.schema import ALL_TABLES, TABLES

logger = logging.getLogger(__name__)

SAMPLE_LABEL = "bundled sample, not Qilin"
SAMPLE_IMAGES_LABEL = "bundled sample with images, not Qilin"
_BUNDLED = {"sample": SAMPLE_LABEL, "sample-images": SAMPLE_IMAGES_LABEL}
_BUNDLED_IN = Path(__file__).parent
_HUB = "hub:"
IMAGE_TEXT_MANIFEST = "image_text.manifest.json"
_CHOICES = f"give a folder with the tables notes and dqa, {', '.join(_BUNDLED)}, or {_HUB}OWNER/NAME"


class Source(NamedTuple):
    """A folder of tables, under a name (for paths) and a label (for people); `log` sets how requests are read.

    Attributes:
        given: The name by which it was opened.
        beside: A folder beside the data that holds its table image_text; None if that is with the others.
    """

    folder: Path
    name: str
    label: str
    log: LogSettings = LogSettings()
    given: str = ""
    beside: Path | None = None

    def files(self, table: str) -> tuple[str, list[Path]]:
        """Return the encoding and the files of a table.

        Raises:
            UsageError: if the table does not exist; the error names the files that were searched.
        """
        if files := self._found(table):
            return files
        raise UsageError(
            f"data {str(self.folder)!r}: table {table} does not exist; "
            f"looked for {table}.{', .'.join(ENCODINGS)} and for shards in a folder {table}"
            f"{near_miss(self.folder, [table]) or self._saved_hint()}"
        )

    @property
    def is_bundled(self) -> bool:
        """Return whether the data comes with this package."""
        return self.folder.parent == _BUNDLED_IN

    def _found(self, table: str) -> tuple[str, list[Path]] | None:
        return find_files(self.beside if self.beside and table == IMAGE_TEXT else self.folder, table)

    def _saved_hint(self) -> str:
        """Return the advice for a dataset that the datasets library saved and that is not a folder of tables."""
        if not any((self.folder / name).is_file() for name in SAVED_FILES):
            return ""
        return f"; this is one saved dataset: move it into a folder of tables, as FOLDER/{{{','.join(TABLES)}}}"

    def tables(self) -> list[str]:
        """Return the tables that exist; raise UsageError if there are none."""
        found = [name for name in ALL_TABLES if self._found(name)]
        if not found:
            known = ", ".join(TABLES)
            hint = near_miss(self.folder, list(TABLES)) or self._saved_hint()
            raise UsageError(f"data {str(self.folder)!r}: no table exists; known: {known}{hint}")
        return found


def open_source(
    name: str, tables: Sequence[str] = ("notes", "dqa"), fetch: bool = True, log: LogSettings | None = None
) -> Source:
    """Open `sample` or `sample-images` (bundled), the path of a folder, or `hub:OWNER/NAME`.

    Args:
        name: The name of the source.
        tables: The tables to download from the hub, once.
        fetch: Whether data may be downloaded.
        log: Settings of reading requests.

    Raises:
        UsageError: if the source does not exist, or was not downloaded before and `fetch` is false.
    """
    return _find_source(name, tables, fetch)._replace(log=log or LogSettings(), given=name)


def _find_source(name: str, tables: Sequence[str], fetch: bool) -> Source:
    if not name.strip():
        raise UsageError(f"data '' is an empty name; {_CHOICES}")
    if name in _BUNDLED:
        return Source(_BUNDLED_IN / name.replace("-", "_"), name, _BUNDLED[name])
    if name.startswith(_HUB):
        return _from_hub(name.removeprefix(_HUB), tables, fetch)
    try:
        folder = expanded(name)
        is_there = folder.is_dir()
    except (OSError, RuntimeError, ValueError):
        is_there = False
    if not is_there:
        if table := _table_of(name):
            raise UsageError(f"data {name!r} is a file; give the folder that it is in: {str(table.parent)!r}")
        raise UsageError(f"data {name!r} does not exist; {_CHOICES}")
    if other := data_of(folder):
        return _find_source(other, tables, fetch)._replace(beside=folder)
    label = folder.resolve().name
    return Source(folder, label, label)


def data_of(folder: Path) -> str | None:
    """Return the data whose table image_text this folder holds beside it; None if it is data itself.

    Raises:
        UsageError: if the folder names such a folder, or its manifest can't be read.
    """
    if not (manifest := folder / IMAGE_TEXT_MANIFEST).is_file():
        return None
    named = read_json(manifest).get("data")
    if isinstance(named, str) and not named.startswith(_HUB) and data_of(expanded(named)) is not None:
        raise UsageError(f"{manifest}: data {named!r} is itself only a folder of image texts; read the images again")
    return named if isinstance(named, str) else None


def _table_of(name: str) -> Path | None:
    """Return the table file that was named instead of its folder."""
    try:
        path = expanded(name)
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _from_hub(repository: str, tables: Sequence[str], fetch: bool) -> Source:
    """Return the tables from the hub's own cache, downloaded if they are missing."""
    from huggingface_hub import snapshot_download

    patterns = [f"{table}/*" for table in tables]
    may_fetch = fetch and not is_forbidden()
    try:
        folder = snapshot_download(
            repository, repo_type="dataset", allow_patterns=patterns, local_files_only=not may_fetch
        )
    except Exception as error:  # no repository, no network: errors of several libraries
        if fetch:
            refuse_download(f"data 'hub:{repository}'")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"data 'hub:{repository}' can't be fetched from the Hugging Face hub: {reason}; check the name and the "
            "network, or give the folder of a downloaded copy"
        ) from error
    return Source(Path(folder), repository, repository)
