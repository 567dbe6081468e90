"""Indexes on disk: built once and kept, written to a folder by name, and refused where they fit something else.

A folder of index files holds a manifest that says what the index was made of (retriever and settings, corpus, order
of its notes, package versions) and the hash of each file. The cache folder is keyed by what an index is made of; an
index named by its path is compared with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from qilin_rag.config import cache_dir
from qilin_rag.data import NoteStore
from qilin_rag.errors import QilinError, UsageError
from qilin_rag.registry import RETRIEVERS
from qilin_rag.retrievers.base import Retriever
from qilin_rag.text import slug

logger = logging.getLogger(__name__)

MANIFEST = "qilin_rag.json"


class IndexedRetriever(Retriever):
    """A retriever that searches files made of all the notes.

    `index` names a folder written by the command `index`; without it an index is kept in the cache folder. Who
    derives from this says how the files are written and read, and which `packages` change what is in them.
    """

    operational: ClassVar[frozenset[str]] = frozenset({"index"})
    packages: ClassVar[tuple[str, ...]] = ()

    index: Path | None = None

    _opened: tuple[str, Any] | None = PrivateAttr(default=None)

    @abstractmethod
    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """Index the notes, of which there is at least one, into files in this empty folder."""

    @abstractmethod
    def read_files(self, folder: Path) -> Any:
        """What `write_files` wrote, memory-mapped where it is large; the files may be deleted afterwards."""

    def index_identity(self) -> dict[str, Any]:
        """The settings that an index depends on."""
        return self.identity()

    def open_index(self, notes: NoteStore) -> Any:
        """The index of these notes: from this object, else the folder named by `index`, else the cache folder.

        In the cache a missing index is built and a damaged one built again; a named one that is damaged, or made
        of something else, is a UsageError.
        """
        made_of = self._made_of(notes)
        key = _digest(made_of)
        if self._opened is None or self._opened[0] != key:
            self._opened = key, self._named(self.index, made_of) if self.index else self._cached(notes, made_of)
        return self._opened[1]

    def write_index(self, notes: NoteStore, folder: Path) -> None:
        """Build an index and put it into `folder`, replacing an index that is there, and nothing else."""
        if not len(notes):
            raise UsageError("there is no note to index")
        if folder.exists() and not (folder / MANIFEST).is_file() and not (folder.is_dir() and _is_empty(folder)):
            raise UsageError(f"{folder} is there and is no index of ours; name another folder, or remove it first")
        try:
            self._write(notes, self._made_of(notes), folder.resolve(), _replace)
        except OSError as error:
            raise QilinError(f"the index {folder} can't be written: {error.strerror or error}") from error

    def _made_of(self, notes: NoteStore) -> dict[str, Any]:
        """What an index of these notes is made of; its rows are rows of the store, so their order counts."""
        return {
            "retriever": self.index_identity(),
            "notes": notes.sha256,
            "order": hashlib.sha256(notes.note_idxs.tobytes()).hexdigest(),
            "n_notes": len(notes),
            "packages": {package: version(package) for package in self.packages},
        }

    def _named(self, folder: Path, made_of: dict[str, Any]) -> Any:
        command = self._command(folder)
        if not folder.is_dir():
            raise UsageError(f"index {folder}: no such folder; make it with: {command}")
        try:
            kept = _read_manifest(folder)
            if differences := _differences(kept, made_of):
                raise UsageError(f"index {folder} does not fit: {differences}; name another, or make it: {command}")
            return self._read(folder, kept)
        except _DamagedIndexError as error:
            raise UsageError(f"index {folder} is damaged ({error}); remove it and make it again: {command}") from error

    def _cached(self, notes: NoteStore, made_of: dict[str, Any]) -> Any:
        """From the cache folder, built there first if need be; a read-only or full cache costs only the saving."""
        folder = cache_dir() / "indexes" / f"{slug(self._name())}-{_digest(made_of)[:24]}"
        if folder.exists():
            try:
                kept = _read_manifest(folder)
                if _differences(kept, made_of):
                    raise _DamagedIndexError("it was made for another corpus or other settings")
                return self._read(folder, kept)
            except _DamagedIndexError as error:
                logger.warning("the index %s is damaged (%s); building it again", folder, error)
                shutil.rmtree(folder, ignore_errors=True)
        try:
            self._write(notes, made_of, folder, _move_unless_there)
            return self.read_files(folder)
        except OSError as error:
            logger.warning("the index can't be kept in %s (%s); it will be built again next time", folder, error)
        with tempfile.TemporaryDirectory(prefix="qilin_rag-", ignore_cleanup_errors=True) as temporary:
            self.write_files(notes, Path(temporary))
            return self.read_files(Path(temporary))

    def _write(
        self, notes: NoteStore, made_of: dict[str, Any], folder: Path, put: Callable[[Path, Path], None]
    ) -> None:
        """Write beside `folder`, then put it there in one step: nobody ever finds half an index."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            self.write_files(notes, temporary)
            hashes = {path.name: _file_digest(path) for path in sorted(temporary.iterdir())}
            manifest = json.dumps(made_of | {"files": hashes}, ensure_ascii=False, indent=2)
            (temporary / MANIFEST).write_text(f"{manifest}\n", encoding="utf-8")
            put(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _read(self, folder: Path, manifest: dict[str, Any]) -> Any:
        try:
            for name, expected in manifest["files"].items():
                if _file_digest(folder / name) != expected:
                    raise _DamagedIndexError(f"{name} is not what was written")
            return self.read_files(folder)
        except (OSError, ValueError, KeyError) as error:
            raise _DamagedIndexError(f"{type(error).__name__}: {error}") from error

    def _name(self) -> str:
        """What this retriever is called on the command line."""
        names = {path: name for name, path in RETRIEVERS.table().items()}
        return names.get(self.class_path(), self.class_path())

    def _command(self, folder: Path) -> str:
        """The command that makes this retriever's index."""
        settings = [f"retriever.{name}={_as_yaml(value)}" for name, value in self.changed().items()]
        words = ["qilin-rag", "index", self._name(), "--data", "DATA", "--out", str(folder)]
        return shlex.join(words + [word for setting in settings for word in ("--set", setting)])


class _DamagedIndexError(Exception):
    """What is wrong with the files of an index."""


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _DamagedIndexError(f"{MANIFEST} is not there") from None
    except (OSError, ValueError) as error:
        raise _DamagedIndexError(f"{MANIFEST}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _DamagedIndexError(f"{MANIFEST} is no manifest of an index")
    return manifest


def _differences(kept: dict[str, Any], made_of: dict[str, Any]) -> str:
    """In words, what an index was made of other than this; empty where it fits."""
    found = []
    if kept.get("notes") != made_of["notes"]:
        found.append("made for another corpus")
    elif kept.get("order") != made_of["order"] or kept.get("n_notes") != made_of["n_notes"]:
        found.append("made for the same notes in another order")
    for group in ("retriever", "packages"):
        there, here = kept.get(group), made_of[group]
        there = there if isinstance(there, dict) else {}
        found += [
            f"{name}: {_shown(there.get(name))} there, {_shown(here.get(name))} here"
            for name in dict.fromkeys([*here, *there])
            if there.get(name) != here.get(name)
        ]
    return "; ".join(found)


def _shown(value: Any) -> str:
    """A setting in a message: a hash by its beginning, text with spaces around it (or none at all) in quotes."""
    if isinstance(value, str) and value and value == value.strip():
        return value[:12] if len(value) == 64 else value
    return json.dumps(value, ensure_ascii=False)


def _as_yaml(value: Any) -> str:
    return (
        value if isinstance(value, str) and re.fullmatch(r"[\w./~-]+", value) else json.dumps(value, ensure_ascii=False)
    )


def _replace(made: Path, folder: Path) -> None:
    """Put `made` where an older index may lie, which is deleted only once the new one is there."""
    if not folder.exists():
        made.rename(folder)
        return
    aside = made.with_name(f"{made.name}-old")
    folder.rename(aside)
    try:
        made.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _move_unless_there(made: Path, folder: Path) -> None:
    """Where another process was first, its index is as good."""
    try:
        os.replace(made, folder)  # noqa: PTH105 - a folder that is not empty is not replaced
    except OSError:
        if not folder.exists():
            raise


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _digest(made_of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
