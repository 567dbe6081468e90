"""Write indexes to disk once, keep them, and refuse them if they were made of something else.

A folder of index files holds a manifest with what the index was made of (retriever and settings, corpus, order of its
notes, package versions) and the hash of each file. The cache folder is keyed by what an index is made of; an index that
is named by its path is compared with it.

A build resumes after a stop. It is made in a folder beside its place, `.NAME-building`, which holds the manifest from
the start. A build of the same thing reuses what an earlier one left; a build of something else removes it.

Opening takes the same time for any size: a file is not read if its size and time of change are those in the manifest.
Every write to a file changes its time, so that this misses only what the disk itself lost. Hashing gigabytes at every
start would be the price of finding that. A file that was copied or touched has another time: it is hashed once, and
gets its time back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import shutil
import tempfile
from abc import abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from qilin_rag.core.cache import cache_dir, in_use, make_room
from qilin_rag.core.checksums import file_record, is_as_recorded
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.files import replace_text
from qilin_rag.core.former import former, renewed
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.text import slug
from qilin_rag.data import NoteStore
from qilin_rag.retrievers import resumable as parts
from qilin_rag.retrievers.base import Retriever

logger = logging.getLogger(__name__)
MANIFEST = "qilin_rag.json"
_MADE_SINCE = re.compile(r".*\.(faiss|tmp)|copies\.npy|(ivf|hnsw)\.json")  # from the vectors; hnsw: earlier


class IndexedRetriever(Retriever):
    """A retriever that searches files made of all the notes.

    A subclass writes and reads the files. `packages` names the packages whose version changes their content.
    """

    operational: ClassVar[frozenset[str]] = frozenset({"index"})
    packages: ClassVar[tuple[str, ...]] = ()
    encodes: ClassVar[bool] = False
    """Whether a model reads every note, so that an index takes minutes to hours."""

    index: Path | None = None
    """A folder written by the command `index`. Default: the index is kept in the cache folder."""

    _opened: tuple[NoteStore, str, Any] | None = PrivateAttr(default=None)

    @abstractmethod
    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """Index the notes, at least one, into files in this folder.

        The folder holds what an earlier build of the same index left (`kept_part` tells what of it is whole). At the
        end, remove what is not part of the index.
        """

    @abstractmethod
    def read_files(self, folder: Path) -> Any:
        """Open what `write_files` wrote, memory-mapped if it is large; the files may be deleted afterwards."""

    def index_identity(self) -> dict[str, Any]:
        """Return the settings that an index depends on."""
        return self.identity()

    @property
    def packages_used(self) -> tuple[str, ...]:
        """Return the packages whose version changes this index."""
        return self.packages

    def about_build(self, notes: NoteStore) -> str:
        """Return in words what a build needs beside time, such as disk; often empty.

        Raises:
            UsageError: if it needs more than the settings allow.
        """
        return ""

    def images_made_of(self, notes: NoteStore) -> str | None:
        """Return a hash of the image paths that an index depends on; None if it depends on texts alone."""
        return None

    def changed_since(self, notes: NoteStore, opened: Any) -> str:
        """Return in words what has changed since an index was made, if it is no fact of its manifest; often empty."""
        return ""

    def open_index(self, notes: NoteStore) -> Any:
        """Return the index of these notes: from this object, else the folder `index`, else the cache folder.

        In the cache folder a missing index is built, and a damaged one is built again.

        Raises:
            UsageError: The folder `index` is damaged, or was made of something else.
        """
        if self._opened is None or self._opened[0] is not notes:
            made_of = self._made_of(notes)
            key = fingerprint(made_of)
            if self._opened and self._opened[1] == key:
                opened = self._opened[2]
            else:
                opened = self._named(notes, made_of, self.index) if self.index else self._cached(notes, made_of)
            self._opened = notes, key, opened
        return self._opened[2]

    def has_index(self, notes: NoteStore) -> bool:
        """Return whether an index of these notes is named, open or kept, so that none has to be made."""
        if self.index is not None or not len(notes) or (self._opened and self._opened[0] is notes):
            return True
        return (self._folder(self._made_of(notes)) / MANIFEST).is_file()

    def open_unkept(self, notes: NoteStore) -> None:
        """Index the notes, at least one, for this object alone: nothing stays on disk."""
        with tempfile.TemporaryDirectory(prefix="qilin_rag-", ignore_cleanup_errors=True) as temporary:
            self.write_files(notes, Path(temporary))
            opened = self.read_files(Path(temporary))
        self._opened = notes, fingerprint(self._made_of(notes)), opened

    def _folder(self, made_of: dict[str, Any]) -> Path:
        """Return the path of such an index in the cache folder."""
        now, earlier = (
            cache_dir() / "indexes" / f"{slug(self.called())}-{fingerprint(made)[:24]}"
            for made in (made_of, former(made_of))
        )
        return now if now.exists() or not earlier.exists() else earlier

    def write_index(self, notes: NoteStore, folder: Path) -> None:
        """Build an index and put it into `folder`; replace an index that is there, but nothing else."""
        if not len(notes):
            raise UsageError("there is no note to index")
        if folder.exists() and not (folder / MANIFEST).is_file() and not (folder.is_dir() and _is_empty(folder)):
            raise UsageError(f"{folder} exists and is not an index; name another folder, or remove it first")
        if strangers := _strangers(folder):
            raise UsageError(f"{folder} holds {strangers[0]}, which is not part of the index; move it away first")
        try:
            self._write(notes, self._made_of(notes), folder.resolve(), replace=True)
        except OSError as error:
            raise _unwritten(folder, error) from error

    def _made_of(self, notes: NoteStore) -> dict[str, Any]:
        """Return what an index of these notes is made of; its rows are rows of the store, so their order counts."""
        return {
            "retriever": self.index_identity(),
            "notes": notes.sha256,
            "order": hashlib.sha256(notes.note_idxs.tobytes()).hexdigest(),
            "n_notes": len(notes),
            "packages": {package: version(package) for package in self.packages_used},
            **({} if (images := self.images_made_of(notes)) is None else {"images": images}),
        }

    def _named(self, notes: NoteStore, made_of: dict[str, Any], folder: Path) -> Any:
        command = self._command(folder)
        if not folder.is_dir():
            raise UsageError(f"index {folder} does not exist; make it with: {command}")
        try:
            kept = _read_manifest(folder)
            if differences := _differences(kept, made_of):
                raise UsageError(f"index {folder} does not fit: {differences}; name another, or make it: {command}")
            if cache_dir().resolve() in folder.resolve().parents:
                in_use(folder, by=self)
            return self._read(notes, folder, kept)
        except _DamagedIndexError as error:
            raise UsageError(
                f"index {folder} is {error.state} ({error}); remove it and make it again: {command}"
            ) from error

    def _cached(self, notes: NoteStore, made_of: dict[str, Any]) -> Any:
        """Open the index in the cache folder, and build it there first if it is missing.

        If the cache can't be written to, the index is only not kept. If the disk fills up during a build, the build
        ends with an error, so that its finished parts are not made again.
        """
        folder = self._folder(made_of)
        if folder.exists():
            in_use(folder, by=self)
            try:
                kept = _read_manifest(folder)
                if _differences(kept, made_of):
                    raise _DamagedIndexError("it was made for another corpus or other settings")
                opened = self._read(notes, folder, kept)
            except _DamagedIndexError as error:
                logger.warning("the index %s is %s (%s); building it again", folder, error.state, error)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                return opened
        try:
            self._write(notes, made_of, folder, replace=False)
            in_use(folder, by=self)
            make_room()
            return self.read_files(folder)
        except OSError as error:
            logger.warning("the index can't be kept in %s (%s); it will be built again next time", folder, error)
        with tempfile.TemporaryDirectory(prefix="qilin_rag-", ignore_cleanup_errors=True) as temporary:
            try:
                self.write_files(notes, Path(temporary))
                return self.read_files(Path(temporary))
            except OSError as error:
                raise _unwritten(Path(temporary), error) from error

    def _write(self, notes: NoteStore, made_of: dict[str, Any], folder: Path, replace: bool) -> None:
        """Build beside `folder`, then rename the index in one step: nobody ever sees half an index.

        The finished parts of a build that ended early stay for the next one.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with parts.building(folder) as unfinished:
            if folder.exists() and not replace:  # another process has built it in the meantime
                return
            if not _is_finished(unfinished, made_of):
                _begin(unfinished, made_of)
                try:
                    self.write_files(notes, unfinished)
                except (UsageError, OSError) as error:
                    if any(path.name != MANIFEST for path in parts.files_of(unfinished)):
                        if isinstance(error, OSError):
                            raise QilinError(f"{_unwritten(folder, error)}; the same command resumes") from error
                    else:
                        shutil.rmtree(unfinished, ignore_errors=True)
                    raise
                files = {
                    path.name: file_record(path, parts.digest(path))
                    for path in parts.files_of(unfinished)
                    if path.name != MANIFEST
                }
                _write_manifest(unfinished, made_of | {"files": files})
            parts.drop_checksums(unfinished)
            parts.drop_temporary(unfinished)
            _put(unfinished, folder)

    def _read(self, notes: NoteStore, folder: Path, manifest: dict[str, Any]) -> Any:
        try:
            _check_files(folder, manifest)
            opened = self.read_files(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _DamagedIndexError(f"{type(error).__name__}: {error}") from error
        if changed := self.changed_since(notes, opened):
            raise _OutdatedIndexError(changed)
        return opened

    def _command(self, folder: Path) -> str:
        """Return the command that makes this retriever's index."""
        settings = [f"retriever.{name}={_as_yaml(value)}" for name, value in self.changed().items()]
        words = ["qilin-rag", "index", self.called(), "--data", "DATA", "--out", str(folder)]
        return shlex.join(words + [word for setting in settings for word in ("--set", setting)])


class _DamagedIndexError(Exception):
    """Raised if the files of an index are damaged; says what is wrong."""

    state = "damaged"


class _OutdatedIndexError(_DamagedIndexError):
    """Raised if an index is whole, but was made of something that has changed; says what."""

    state = "out of date"


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _DamagedIndexError(f"{MANIFEST} does not exist") from None
    except (OSError, ValueError) as error:
        raise _DamagedIndexError(f"{MANIFEST}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _DamagedIndexError(f"{MANIFEST} is not the manifest of an index")
    return renewed(manifest)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    replace_text(folder / MANIFEST, f"{json.dumps(manifest, ensure_ascii=False, indent=2)}\n")


def _is_finished(unfinished: Path, made_of: dict[str, Any]) -> bool:
    """Return whether a build of the same thing has ended here and was only not renamed."""
    try:
        kept = _read_manifest(unfinished)
        if _differences(kept, made_of):
            return False
        _check_files(unfinished, kept)
    except (_DamagedIndexError, OSError, KeyError, TypeError):
        return False
    return True


def _begin(unfinished: Path, made_of: dict[str, Any]) -> None:
    """Prepare a folder for this build: keep what an earlier build of the same thing left, remove anything else."""
    try:
        goes_on = not _differences(_read_manifest(unfinished), made_of)
    except _DamagedIndexError:
        goes_on = False
    if goes_on:
        logger.info("resuming the index build in %s", unfinished)
        parts.drop_temporary(unfinished)
    elif unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(exist_ok=True)
    _write_manifest(unfinished, made_of | {"files": {}})


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise a _DamagedIndexError if a file is not as the manifest says, or the manifest lists no files yet."""
    if not manifest["files"]:
        raise _DamagedIndexError("its build has not ended")
    for name, record in manifest["files"].items():
        if Path(name).name != name:
            raise _DamagedIndexError(f"{name!r} is not the name of a file in it")
        if not is_as_recorded(folder / name, record):
            raise _DamagedIndexError(f"{name} is not what was written")


def _differences(kept: dict[str, Any], made_of: dict[str, Any]) -> str:
    """Return in words in what an index differs from `made_of`; empty if it fits."""
    found = []
    if kept.get("notes") != made_of["notes"]:
        found.append("made for another corpus")
    elif kept.get("order") != made_of["order"] or kept.get("n_notes") != made_of["n_notes"]:
        found.append("made for the same notes in another order")
    if kept.get("images") != made_of.get("images"):
        found.append("made for other image paths")
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
    """Format a setting for a message: a hash by its first digits; text in quotes if it is empty or has outer spaces."""
    if isinstance(value, str) and value and value == value.strip():
        return value[:12] if len(value) == 64 else value
    return json.dumps(value, ensure_ascii=False)


def _as_yaml(value: Any) -> str:
    return (
        value if isinstance(value, str) and re.fullmatch(r"[\w./~-]+", value) else json.dumps(value, ensure_ascii=False)
    )


def _put(made: Path, folder: Path) -> None:
    """Rename `made` to `folder`; delete an older index there only once the new one is in place."""
    aside = made.with_name(f"{made.name}-old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    try:
        made.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _unwritten(folder: Path, error: OSError) -> QilinError:
    return QilinError(f"the index {folder} can't be written: {error.strerror or error}")


def _strangers(folder: Path) -> list[str]:
    """Return the files of an index folder that are not in its manifest nor made from it; empty if it can't be told."""
    try:
        files = _read_manifest(folder)["files"]
    except _DamagedIndexError:
        return []
    found = sorted(path for path in folder.iterdir() if not _MADE_SINCE.fullmatch(path.name)) if files else []
    return [path.name for path in found if path.name not in {MANIFEST, *files}]


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None
