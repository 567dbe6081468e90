from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qilin_rag.core import checksums
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import Dataset, NoteStore, load_dataset
from qilin_rag.retrievers import IndexedRetriever, resumable
from qilin_rag.retrievers.resumable import drop_part, is_whole, kept_part

NAMES = ("a", "b", "c")


class Parts(IndexedRetriever):
    """Its index are three files; `before` is called with the name of each before it is written."""

    before: ClassVar[Callable[[str], None]]
    written: ClassVar[list[str]] = []

    seed: int = 0

    def search(self, questions: Any, notes: NoteStore, k: int) -> list[list[Hit]]:
        self.open_index(notes)
        return [[] for _ in questions]

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        for name in NAMES:

            def write(path: Path, name: str = name) -> None:
                path.write_text(f"half of {name}")
                Parts.before(name)
                path.write_text(f"{name} of {len(notes)} notes, {self.seed}")
                Parts.written.append(name)

            kept_part(folder, name, write)

    def read_files(self, folder: Path) -> list[str]:
        return [(folder / name).read_text() for name in NAMES]


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    Parts.written = []
    Parts.before = lambda name: None
    return load_dataset(str(data_dir))


def failing(name: str, error: BaseException) -> Callable[[str], None]:
    def before(other: str) -> None:
        if other == name:
            raise error

    return before


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("out of memory")]
)
def test_a_build_goes_on_where_it_stopped(small: Dataset, tmp_path: Path, error: BaseException) -> None:
    Parts.before = failing("b", error)
    with pytest.raises((type(error), QilinError)):
        Parts().write_index(small.notes, tmp_path / "index")
    assert left(tmp_path) == [".index-building"]
    assert not (tmp_path / "index").exists()
    Parts.before = lambda name: None
    Parts().write_index(small.notes, tmp_path / "index")
    assert Parts.written == ["a", "b", "c"]
    assert Parts(index=tmp_path / "index").open_index(small.notes) == [f"{name} of 5 notes, 0" for name in NAMES]
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [*NAMES, "qilin_rag.json"]
    assert not left(tmp_path)


def test_what_was_built_of_something_else_is_removed(small: Dataset, tmp_path: Path) -> None:
    Parts.before = failing("c", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        Parts(seed=1).write_index(small.notes, tmp_path / "index")
    (tmp_path / ".index-building" / "more").write_text("of the other")
    Parts.before = lambda name: None
    Parts().write_index(small.notes, tmp_path / "index")
    assert Parts(index=tmp_path / "index").open_index(small.notes) == [f"{name} of 5 notes, 0" for name in NAMES]
    assert not (tmp_path / "index" / "more").exists()


def test_a_part_that_was_damaged_is_written_again(small: Dataset, tmp_path: Path) -> None:
    Parts.before = failing("c", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        Parts().write_index(small.notes, tmp_path / "index")
    (tmp_path / ".index-building" / "b").write_text("b of 5 notes, 1")
    Parts.before = lambda name: None
    Parts().write_index(small.notes, tmp_path / "index")
    assert Parts.written == ["a", "b", "b", "c"]
    assert Parts(index=tmp_path / "index").open_index(small.notes) == [f"{name} of 5 notes, 0" for name in NAMES]


def test_wrong_use_leaves_what_was_made_and_else_nothing(small: Dataset, tmp_path: Path) -> None:
    Parts.before = failing("b", UsageError("no such device"))
    with pytest.raises(UsageError, match="no such device"):
        Parts().write_index(small.notes, tmp_path / "index")
    Parts.before = failing("c", UsageError("no such device"))
    with pytest.raises(UsageError, match="no such device"):
        Parts().write_index(small.notes, tmp_path / "index")
    assert Parts.written == ["a", "b"]
    shutil.rmtree(tmp_path / ".index-building")
    Parts.before = failing("a", UsageError("no such model"))
    with pytest.raises(UsageError, match="no such model"):
        Parts().write_index(small.notes, tmp_path / "index")
    with pytest.raises(UsageError, match="no such model"):
        Parts().search([], small.notes, 5)
    assert not left(tmp_path)
    assert not list((tmp_path / "cache" / "indexes").iterdir())


def test_a_build_that_was_only_not_put_in_its_place_is_not_made_again(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "drop_temporary", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Parts().write_index(small.notes, tmp_path / "index")
    monkeypatch.undo()
    Parts().write_index(small.notes, tmp_path / "index")
    assert Parts.written == ["a", "b", "c"]
    assert Parts(index=tmp_path / "index").open_index(small.notes) == [f"{name} of 5 notes, 0" for name in NAMES]
    assert not left(tmp_path)


def test_the_second_to_build_waits_and_finds_it_built(small: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qilin_rag")
    begun, go_on = threading.Event(), threading.Event()

    def before(name: str) -> None:
        begun.set()
        go_on.wait()

    Parts.before = before
    opened: list[list[str]] = []
    threads = [threading.Thread(target=lambda: opened.append(Parts().open_index(small.notes))) for _ in range(2)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    while "another process builds" not in caplog.text:
        threads[1].join(0.01)
    go_on.set()
    for thread in threads:
        thread.join()
    assert opened == [[f"{name} of 5 notes, 0" for name in NAMES]] * 2
    assert Parts.written == ["a", "b", "c"]


def test_an_index_is_opened_without_reading_it_unless_it_was_copied_or_touched(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Parts().write_index(small.notes, tmp_path / "index")
    shutil.copytree(tmp_path / "index", tmp_path / "copied", copy_function=shutil.copyfile)
    hashed: list[str] = []
    digest = checksums.file_digest

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return digest(path)

    monkeypatch.setattr(checksums, "file_digest", noted)
    Parts(index=tmp_path / "index").open_index(small.notes)
    assert hashed == []
    for _ in range(2):
        Parts(index=tmp_path / "copied").open_index(small.notes)
        assert hashed == list(NAMES)
    os.utime(tmp_path / "index" / "b", ns=(1, 1))
    Parts(index=tmp_path / "index").open_index(small.notes)
    assert hashed == [*NAMES, "b"]
    (tmp_path / "index" / "b").write_text("b of 5 notes, 1")
    with pytest.raises(UsageError, match=r"damaged .b is not what was written"):
        Parts(index=tmp_path / "index").open_index(small.notes)


def test_a_disk_that_fills_in_the_middle_costs_nothing_that_is_made(small: Dataset) -> None:
    asked = [Question(id="1", query="x", references=["x"])]
    Parts.before = failing("b", OSError(28, "No space left on device"))
    with pytest.raises(QilinError, match=r"can't be written: No space left on device; the same command resumes$"):
        Parts().search(asked, small.notes, 5)
    Parts.before = lambda name: None
    Parts().search(asked, small.notes, 5)
    assert Parts.written == ["a", "b", "c"]


def test_a_full_disk_everywhere_is_one_line(small: Dataset) -> None:
    Parts.before = failing("a", OSError(28, "No space left on device"))
    with pytest.raises(QilinError, match=r"can't be written: No space left on device$"):
        Parts().search([Question(id="1", query="x", references=["x"])], small.notes, 5)


def test_a_part_is_whole_or_not_there(tmp_path: Path) -> None:
    assert kept_part(tmp_path, "x", lambda path: path.write_bytes(b"1"))
    assert not kept_part(tmp_path, "x", lambda path: pytest.fail("written again"))
    assert is_whole(tmp_path, "x")
    (tmp_path / "x.sha256").unlink()
    assert not is_whole(tmp_path, "x")
    assert kept_part(tmp_path, "x", lambda path: path.write_bytes(b"2"))
    drop_part(tmp_path, "x")
    assert not is_whole(tmp_path, "x")
    assert not list(tmp_path.iterdir())
