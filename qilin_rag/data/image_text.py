"""Read what the images of notes say, into the table image_text: by several processes, and resumable.

A finished note is a line of `image_text.partial.jsonl`, appended at once. When all are read, they become the table
`image_text.jsonl` in the order of the notes, whatever the number of processes and however often they were stopped.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import atomic_path, mend_last_line, open_new, read_json, write_all, write_text, writing
from qilin_rag.core.note_fields import IMAGE_TEXT
from qilin_rag.core.plain_files import open_plain
from qilin_rag.core.processes import in_processes
from qilin_rag.core.progress import stage
from qilin_rag.core.trec import read_trec
from qilin_rag.core.types import Frozen
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.encodings import present_columns
from qilin_rag.data.note_ids import text_id_number
from qilin_rag.data.note_images import NoteImages
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.ocr import LONGEST_SIDE, OcrEngine, engine_identity
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import IMAGE_TEXT_MANIFEST, Source, data_of, open_source

logger = logging.getLogger(__name__)
VERSION = 1  # raise it when other text is read of the same images
TABLE, PARTIAL = f"{IMAGE_TEXT}.jsonl", f"{IMAGE_TEXT}.partial.jsonl"
_BATCH_NOTES = 4  # what a killed process has to read again
_GROUP_NOTES = 4096
_ALL = 1 << 30
_MISSING = "missing"
Slots = npt.NDArray[np.int64]


class NoteText(Frozen):
    """The text in the images of a note.

    Attributes:
        note_idx: The id of the note, as the table notes has it.
        image_text: The text, a line for each line of text in the images; empty if they have none.
        images: The number of images that were read.
        left_out: The number of images that could not be read, by reason.
    """

    note_idx: NonNegativeInt | str
    image_text: str
    images: NonNegativeInt
    left_out: dict[str, NonNegativeInt] = {}

    @property
    def number(self) -> int:
        """Return the note_idx as a number; -1, which no note has, if it is not an id."""
        number = text_id_number(self.note_idx) if isinstance(self.note_idx, str) else self.note_idx
        return -1 if number is None else number

    def is_of(self, paths: Sequence[str]) -> bool:
        """Return whether these images were read, except for files that may be there by now."""
        return self.images + sum(self.left_out.values()) == len(paths) and _MISSING not in self.left_out


class ReadImages(NamedTuple):
    """The finished table: its folder, its notes, images read and left out by reason, and characters of text."""

    folder: Path
    notes: int
    images: int
    left_out: dict[str, int]
    characters: int


def read_images(
    data: str,
    out: Path | None = None,
    n_processes: int = 1,
    per_note: int | None = None,
    retrieved: Path | None = None,
) -> ReadImages:
    """Read the images of all notes that are not read yet, and write the table image_text.

    Args:
        data: The name of the data.
        out: A folder of its own for the table, which is then data, too; None for the folder of the data.
        n_processes: The number of processes that read images.
        per_note: The most images of a note; None for all.
        retrieved: A TREC run; only the notes that it names are read now, and those read before stay in the table.

    Raises:
        UsageError: if the data has no images, the folder holds something else, or the table was begun with another
            engine or other settings.
    """
    identity = {**engine_identity(), "version": VERSION, "images_per_note": per_note}
    source = open_source(data, ("notes",))
    folder, base = _place(source, out)
    catalogue = open_catalogue(source)
    _check(source, catalogue.notes)
    named = None if retrieved is None else _slots_named(retrieved, catalogue.notes)
    with _locked(folder):
        _begin(folder, {"data": base, "identity": identity})
        todo = _Todo(folder, catalogue.notes, per_note or _ALL, named)
        jobs = _Jobs(data, per_note or _ALL)
        with (
            writing(folder / PARTIAL),
            open_new(folder / PARTIAL, "ab") as file,
            stage("reading images", todo.n_notes, todo.n_notes - todo.n_left) as advance,
            closing(_results(jobs, catalogue, todo, n_processes)) as results,
        ):
            for texts in results:
                write_all(file, "".join(f"{each.model_dump_json()}\n" for each in texts).encode())
                advance(len(texts))
        done = _finish(folder, todo, source.folder)
        figures = {name: value for name, value in done._asdict().items() if name != "folder"}
        _write_manifest(folder, {"data": base, "identity": identity, **figures})
        (folder / PARTIAL).unlink(missing_ok=True)
    return done


def _place(source: Source, out: Path | None) -> tuple[Path, str | None]:
    """Return the folder to write to, and the name of the data if it is elsewhere."""
    if out is None and source.beside is None and (source.is_bundled or source.given.startswith("hub:")):
        raise UsageError(
            f"data {source.given!r} is not a folder to write to; name one (--out FOLDER), which is then the data to use"
        )
    folder = out or source.beside or source.folder
    if folder.resolve() == source.folder.resolve():
        return folder, None
    is_folder = not (source.is_bundled or source.given.startswith("hub:"))
    base = data_of(source.beside) if source.beside else str(source.folder.resolve()) if is_folder else source.given
    if folder.exists() and not (folder / IMAGE_TEXT_MANIFEST).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise UsageError(f"{folder} (--out) exists and is not empty; name a new folder, or that of an earlier call")
    elif folder.exists() and data_of(folder) != base:
        raise UsageError(f"{folder} (--out) holds image texts of other data; name a new folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder, base


def _check(source: Source, notes: NoteStore) -> None:
    """Raise a UsageError if there is nothing to read, or a text of images that this program has not read."""
    if "image_path" not in notes.columns:
        raise UsageError(f"data {source.given!r} has no images: the notes have no image_path")
    if IMAGE_TEXT in present_columns(*source.files("notes"), TABLES["notes"]):
        raise UsageError(f"data {source.given!r} has a column {IMAGE_TEXT} already; it can be used as it is")
    if IMAGE_TEXT in source.tables():
        _, [file, *_] = source.files(IMAGE_TEXT)
        if file.name != TABLE or not file.with_name(IMAGE_TEXT_MANIFEST).is_file():
            raise UsageError(f"{file} was not made by this command; move it away, or use it as it is")


def _slots_named(run: Path, notes: NoteStore) -> Slots:
    """Return the places of the notes that a TREC run names; raise a UsageError if one does not exist."""
    rankings = read_trec(run, text_id_number)
    return notes.slots(sorted({hit.note_idx for ranking in rankings.values() for hit in ranking}))


def _begin(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest before the first image is read; refuse to resume what was begun in another way."""
    path = folder / IMAGE_TEXT_MANIFEST
    if not path.exists():
        _write_manifest(folder, manifest)
        return
    was, now = read_json(path).get("identity"), manifest["identity"]
    was = was if isinstance(was, dict) else {}
    if differs := [name for name in {**now, **was} if was.get(name) != now.get(name)]:
        name = differs[0]
        shown = "" if name == "models" else f" ({was.get(name)}, now {now.get(name)})"
        raise UsageError(
            f"{folder} holds image texts that were read with another {name}{shown}; "
            f"read them as before, or remove {IMAGE_TEXT}.* there to read all images again"
        )


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_text(folder / IMAGE_TEXT_MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")


class _Todo:
    """The notes with images, and the line on disk of each that was read."""

    def __init__(self, folder: Path, notes: NoteStore, n_images: int, named: Slots | None = None) -> None:
        self._notes, self._n_images = notes, n_images
        self.files = (folder / TABLE, folder / PARTIAL)
        mend_last_line(folder / PARTIAL)
        self.file = np.full(len(notes), -1, np.int8)  # index into `files` of the note's last line
        self.start = np.zeros(len(notes), np.int64)
        self._has_images = self._with_images()
        self._wanted = self._has_images
        if named is not None:
            self._wanted = self._has_images & np.isin(np.arange(len(notes)), named)
        self._is_left = self._wanted.copy()
        self.n_notes = int(self._wanted.sum())
        self.look()

    @property
    def n_left(self) -> int:
        """Return the number of notes that are not read."""
        return int(self._is_left.sum())

    def batches(self) -> Iterator[list[int]]:
        """Yield the ids of the notes that are not read, some at a time."""
        left = np.flatnonzero(self._is_left)
        for start in range(0, len(left), _BATCH_NOTES):
            yield self._notes.note_idxs[left[start : start + _BATCH_NOTES]].tolist()

    def read(self) -> list[int]:
        """Return the slots of the notes that have images and a line, in the order of the notes."""
        return np.flatnonzero(self._has_images & (self.file >= 0)).tolist()

    def look(self) -> None:
        """Find the lines on disk, a later one in place of an earlier one of the same note."""
        for number, path in enumerate(self.files):
            for group in _grouped(_lines(path)):
                gone = set(self._notes.missing([text.number for _, text in group]))
                there = [(start, text) for start, text in group if text.number not in gone]
                numbers = [text.number for _, text in there]
                slots = self._notes.slots(numbers)
                paths = self._notes.read(numbers, ["image_path"])["image_path"].to_pylist()
                for slot, names, (start, text) in zip(slots.tolist(), paths, there, strict=True):
                    self.file[slot], self.start[slot] = number, start
                    self._is_left[slot] = not text.is_of((names or [])[: self._n_images])
        self._is_left &= self._wanted

    def _with_images(self) -> npt.NDArray[np.bool_]:
        has = [np.zeros(0, bool)]
        for start in range(0, len(self._notes), _GROUP_NOTES):
            some = self._notes.note_idxs[start : start + _GROUP_NOTES]
            has.append(np.array([bool(each) for each in self._notes.read(some, ["image_path"])[0].to_pylist()]))
        return np.concatenate(has)


def _lines(path: Path) -> Iterator[tuple[int, NoteText]]:
    """Yield the lines of a file with the place of each in bytes."""
    if not path.exists():
        return
    start = 0
    with open_plain(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield start, NoteText.model_validate_json(line)
            except ValidationError as error:
                raise UsageError(
                    f"{path}, line {number}: {error.errors()[0]['msg']}; remove the line, and its images are read again"
                ) from error
            start += len(line)


def _grouped(lines: Iterator[tuple[int, NoteText]]) -> Iterator[list[tuple[int, NoteText]]]:
    group: list[tuple[int, NoteText]] = []
    for line in lines:
        group.append(line)
        if len(group) == _GROUP_NOTES:
            yield group
            group = []
    if group:
        yield group


def _finish(folder: Path, todo: _Todo, images: Path) -> ReadImages:
    """Write the table in the order of the notes, and sum it up; raise a UsageError if `images` holds none of them."""
    todo.look()
    n_images, n_characters = 0, 0
    left_out: Counter[str] = Counter()
    slots = todo.read()
    sources = [open_plain(path) if path.exists() else None for path in todo.files]
    try:
        with writing(folder / TABLE), atomic_path(folder / TABLE) as temporary, temporary.open("wb") as file:
            for slot in slots:
                source = sources[todo.file[slot]]
                assert source is not None
                source.seek(int(todo.start[slot]))
                line = source.readline()
                text = NoteText.model_validate_json(line)
                n_images, n_characters = n_images + text.images, n_characters + len(text.image_text)
                left_out.update(text.left_out)
                file.write(line)
            if left_out and not n_images and set(left_out) == {_MISSING}:
                raise UsageError(
                    f"none of the {left_out.total():,} images is in {images}; put them there, unpacked or as the "
                    "archives part_N.tar.gz, and give the same command again"
                )
    finally:
        for source in filter(None, sources):
            source.close()
    return ReadImages(folder, len(slots), n_images, dict(sorted(left_out.items())), n_characters)


@contextmanager
def _locked(folder: Path) -> Generator[None, None, None]:
    """Hold the folder for this process alone."""
    with writing(folder):
        lock = filelock.FileLock(folder / f".{IMAGE_TEXT}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(f"another process reads images into {folder}; wait for it, or stop it") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class _Jobs(NamedTuple):
    """The data that a process opens, and the most images of a note that it reads."""

    data: str
    n_images: int


class _Reader:
    """Reads the images of some notes."""

    def __init__(self, catalogue: Catalogue, n_images: int) -> None:
        self._notes, self._n_images = catalogue.notes, n_images
        self._images = NoteImages(catalogue.notes, longest_side=LONGEST_SIDE)
        self._engine = OcrEngine()

    def read(self, note_idxs: Sequence[int]) -> list[NoteText]:
        """Return what the images of these notes say."""
        names: dict[int, str] = self._notes.text_ids(note_idxs)
        texts = []
        for note_idx, (images, left_out) in self._images.of_notes(note_idxs, self._n_images).items():
            said = []
            for image in images:
                try:
                    said.append(self._engine.read(image))
                except Exception as error:  # the engine raises any error at odd shapes
                    logger.debug("%s: %s", image.path, error)
                    left_out["unreadable"] += 1
            written: int | str = note_idx
            if self._notes.has_text_ids:
                written = names.get(note_idx, str(note_idx))
            texts.append(
                NoteText(
                    note_idx=written,
                    image_text="\n".join(filter(None, said)),
                    images=len(said),
                    left_out=dict(sorted(left_out.items())),
                )
            )
        return texts


_reader: _Reader | None = None


def _open_reader(jobs: _Jobs) -> None:
    global _reader
    _reader = _Reader(open_catalogue(open_source(jobs.data, ("notes",), fetch=False)), jobs.n_images)


def _read_batch(note_idxs: list[int]) -> list[NoteText]:
    assert _reader is not None
    return _reader.read(note_idxs)


def _results(jobs: _Jobs, catalogue: Catalogue, todo: _Todo, n_processes: int) -> Generator[list[NoteText], None, None]:
    """Yield the texts of the notes that are left, a batch at a time, in any order."""
    if not todo.n_left:
        return
    if n_processes == 1:
        reader = _Reader(catalogue, jobs.n_images)
        yield from map(reader.read, todo.batches())
        return
    n_processes = min(n_processes, -(-todo.n_left // _BATCH_NOTES))
    who, advice = "a process that reads images", "; with fewer --jobs they need less memory"
    with closing(in_processes(n_processes, _read_batch, todo.batches(), who, advice, _open_reader, (jobs,))) as results:
        yield from results
