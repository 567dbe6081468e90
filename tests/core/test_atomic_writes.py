"""One way to write a file whole: the old one or the new, and nothing beside them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

import qilin_rag
from qilin_rag.core import files
from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import atomic_folder, atomic_path, new_folder, remove_leftovers, replace_text, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and not temporary.exists()
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), names(tmp_path)) == ("new", ["file.json"])


@pytest.mark.parametrize("failure", [RuntimeError("of a library"), OSError(28, "full"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    with pytest.raises(type(failure)), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise failure
    assert (path.read_text(), names(tmp_path)) == ("old", ["file.json"])


@pytest.mark.parametrize("what", ["fsync", "replace", "nothing written"])
def test_what_the_system_refuses_leaves_the_old_file_alone(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if what == "fsync":
        monkeypatch.setattr("os.fsync", refuse)
    elif what == "replace":
        monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError), atomic_path(path) as temporary:
        if what != "nothing written":
            temporary.write_text("new")
    assert (path.read_text(), names(tmp_path)) == ("old", ["file.json"])


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    sync, path = os.fsync, tmp_path / "file"

    def seen(fd: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{fd}").readlink()), path.exists()))
        sync(fd)

    monkeypatch.setattr("os.fsync", seen)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert synced == [(str(temporary), False)]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    replace_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"


def test_what_killed_processes_left_goes_and_what_living_ones_write_stays(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom qilin_rag.core.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n    temporary.write_text('half')\n    os._exit(1)\n"
    )
    for name in ("a[1].json", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    assert len(names(tmp_path)) == 2
    with atomic_path(tmp_path / "c") as living:
        living.write_text("half")
        write_text(tmp_path / "a[1].json", "new")
        assert [name[:3] for name in names(tmp_path)] == [".b.", ".c.", "a[1"]
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [living.name, "a[1].json"]
    assert names(tmp_path) == ["a[1].json", "c"]


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "below" / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "below" / "out").exists()
    assert names(tmp_path / "below") == ["out"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "below" / "other") as folder:
        (folder / "a").write_text("1")
        raise RuntimeError
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "below" / "out") as folder:
        (folder / "a").write_text("2")
    with pytest.raises(QilinError, match=r"can't be written: .*; nothing is left of it"), new_folder(tmp_path / "new"):
        raise OSError(28, "No space left on device")
    assert (names(tmp_path), names(tmp_path / "below")) == (["below"], ["out"])
    assert (tmp_path / "below" / "out" / "a").read_text() == "1"


def test_the_folder_one_is_in_can_not_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    with pytest.raises(QilinError, match=r"^\. can't be written"), new_folder(Path()):
        pass
    assert (names(tmp_path), names(tmp_path / "own")) == (["own"], [])


def renames(tree: ast.AST) -> list[int]:
    """The lines that rename something: `x.rename(y)`, `x.replace(y)` of one argument, `os.replace`."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr == "rename" or (node.func.attr == "replace" and len(node.args) == 1 and not node.keywords))
    ]


def test_nobody_else_writes_beside_and_renames() -> None:
    """The others put folders or finished files in their places; a new one is to use `atomic_path`."""
    package = Path(qilin_rag.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if renames(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == {
        "core/files.py",
        "data/convert.py",  # shards get their number once all are there, in a new folder
        "pipeline/run_directory.py",  # scores after the summary; samples set aside
        "retrievers/index_files.py",  # a whole index, the old one aside
    }


@pytest.mark.parametrize("write", [write_text, replace_text])
def test_text_goes_through_the_one_place_that_faults_are_tested_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None]
) -> None:
    seen: list[bytes] = []
    real = files.write_all

    def count(file: IO[bytes], content: bytes) -> None:
        seen.append(content)
        real(file, content)

    monkeypatch.setattr(files, "write_all", count)
    write(tmp_path / "a", "冷萃")
    assert seen == ["冷萃".encode()]
