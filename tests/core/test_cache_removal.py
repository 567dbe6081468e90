"""What the limit and `cache clear` remove of the cache folder, what they leave, and what they say of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import filelock
import pytest

from qilin_rag.core import cache
from qilin_rag.core.files import atomic_folder
from qilin_rag.core.text import slug
from qilin_rag.core.types import Completion
from qilin_rag.llms.cache import ResponseCache
from tests.conftest import Cli

HEX = "0123456789abcdef" * 2
NAMES = [f"notes/{HEX[i : i + 24]}" for i in range(6)]


class Owner:
    """Something that uses an entry."""


@pytest.fixture
def folder(own_folder: Path) -> Path:
    return cache.cache_dir()


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def put(folder: Path, name: str, n_bytes: int = 10, days: float = 1) -> Path:
    """An entry that was used so long ago: a folder with a file in it, or a file if its name has a suffix and no `/`."""
    path = folder / name
    file = path if path.suffix and not name.endswith("/") else path / "file"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(n_bytes))
    age(file, days)
    if path.is_dir():
        age(path, days)
    return path


def put_answers(folder: Path, n_bytes: int) -> Path:
    answers = ResponseCache(folder / "responses.sqlite")
    answers.put("key", Completion(text="x" * n_bytes, raw="", model="m", finish_reason="stop"))
    answers.close()
    return folder / "responses.sqlite"


@contextmanager
def other_process(code: str, *arguments: object) -> Iterator[None]:
    """A process that has said that it is ready, and lives until the block ends."""
    text = f"import sys\nfrom pathlib import Path\n{code}"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.kill()


def refuse_to_remove(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that belongs to another user; root may do anything."""
    rmtree, unlink = shutil.rmtree, Path.unlink

    def refuse_folder(each: Path) -> None:
        if each == path:
            raise PermissionError(13, "Permission denied", str(each))
        rmtree(each)

    def refuse_file(each: Path, missing_ok: bool = False) -> None:
        if each == path:
            raise PermissionError(13, "Permission denied", str(each))
        unlink(each, missing_ok)

    monkeypatch.setattr(shutil, "rmtree", refuse_folder)
    monkeypatch.setattr(Path, "unlink", refuse_file)


@pytest.mark.parametrize(
    ("sizes", "used", "answers", "left"),
    [
        ([100, 100, 100, 100, 900], [4], 0, [0, 1, 2, 3, 4]),  # one that alone is more than the limit
        ([100, 100, 100, 300, 300], [3, 4], 0, [0, 1, 2, 3, 4]),  # two that are so together
        ([100, 100, 40, 200, 240], [3, 4], 0, [2, 3, 4]),  # that the others go is of use
        ([100, 100, 300, 300, 900], [4], 0, [3, 4]),  # the others have the limit for themselves
        ([300, 300, 300], [0, 1, 2], 0, [0, 1, 2]),
        ([100, 100], [], 900, [0, 1]),
        ([300, 300], [], 900, [1]),
        ([300, 300], [1], 900, [0, 1]),
        ([900, 100, 100], [], 0, [1, 2]),
        ([100, 100, 900], [], 0, [0, 1]),  # in use no more: it goes, though it was used last
        ([100, 100, 450], [], 0, [2]),  # it fits
    ],
)
def test_what_can_not_fit_does_not_empty_the_cache(
    folder: Path,
    sizes: list[int],
    used: list[int],
    answers: int,
    left: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Sizes are in kB, the first was used the longest time ago; the limit is 500 kB."""
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0.0005")
    paths = [
        put(folder, name, size * 1000, days=10 - i) for i, (name, size) in enumerate(zip(NAMES, sizes, strict=False))
    ]
    if answers:
        put_answers(folder, answers * 1000)
    owner = Owner()
    for i in used:
        cache.in_use(paths[i], by=owner)
    cache.make_room()
    assert [i for i, path in enumerate(paths) if path.exists()] == left
    is_over = sum(sizes[i] for i in left) + answers > 500
    assert ["more than QILIN_RAG_CACHE_GB allows" in message for message in caplog.messages] == [True] * is_over


def test_what_the_system_keeps_is_no_reason_to_remove_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = put(folder, NAMES[0], 900_000, days=9)
    others = [put(folder, name, 100_000) for name in NAMES[1:4]]
    refuse_to_remove(refused, monkeypatch)
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0.0005")
    cache.make_room()
    assert all(path.exists() for path in [refused, *others])


def test_who_looks_what_is_in_use_keeps_nobody_from_using_it(folder: Path) -> None:
    path, owner = put(folder, NAMES[0]), Owner()
    code = (
        "import fcntl, os, time\ndescriptor = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.flock(descriptor, fcntl.LOCK_EX)\nprint('ready', flush=True)\ntime.sleep(0.05)\n"
        "os.close(descriptor)\nsys.stdin.read()\n"
    )
    with other_process(code, path):
        cache.in_use(path, by=owner)
    assert [entry.path for entry in cache.clear(["notes"]).left] == [path]


WRITERS = {
    "notes": ("atomic_folder", f"notes/{HEX[:24]}", "path = temporary / 'notes.arrow'"),
    "shard": ("atomic_path", f"vectors/tiny-{HEX[:16]}/{HEX[:16]}.safetensors", "path = temporary"),
    "npy": ("atomic_path", f"vectors/{HEX[:24]}.npy", "path = temporary"),
    "record": ("atomic_path", f"vectors/{HEX[:24]}.npy.json", "path = temporary"),
}


@pytest.mark.parametrize("writer", list(WRITERS))
def test_what_a_living_process_writes_stays_and_what_a_dead_one_left_goes(folder: Path, writer: str) -> None:
    function, name, path = WRITERS[writer]
    (folder / name).parent.mkdir(parents=True)
    code = (
        f"from qilin_rag.core.files import {function}\n"
        f"with {function}(Path(sys.argv[1])) as temporary:\n    {path}\n    path.write_bytes(bytes(10))\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    with other_process(code, folder / name):
        [entry] = cache.entries(["notes", "vectors"])
        for path_ in [*entry.path.rglob("*"), entry.path]:
            age(path_, days=1)
        assert entry.n_bytes == 10
        assert [each.path for each in cache.clear(["notes", "vectors"]).left] == [entry.path]
        assert entry.path.exists()
    cleared = cache.clear(["notes", "vectors"])  # at once: nobody writes it
    assert ([each.path for each in cleared.removed], cleared.left) == ([entry.path], [])
    assert cache.entries() == []


@pytest.mark.parametrize("suffix", ["-abcd1234", ".0a1b2c3d-1-0a1b2c3d.tmp"])
def test_of_a_writer_on_another_machine_the_time_of_the_last_change_tells(folder: Path, suffix: str) -> None:
    young, old = (put(folder, f"notes/.{HEX[i : i + 24]}{suffix}/", days=i) for i in (0, 1))
    age(young, days=1)  # its file is young
    cache.clear(["notes"])
    assert (young.exists(), old.exists()) == (True, False)


def test_a_conversion_that_was_killed_leaves_nothing_to_the_next(folder: Path) -> None:
    code = (
        "from qilin_rag.core.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as temporary:\n    (temporary / 'half').touch()\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    with other_process(code, folder / NAMES[0]), atomic_folder(folder / NAMES[0]) as temporary:
        assert len(list(temporary.parent.iterdir())) == 2  # the other one is alive
    with atomic_folder(folder / NAMES[0]):
        pass
    assert list((folder / "notes").iterdir()) == [folder / NAMES[0]]


BUILD = f"indexes/.bm25-{HEX[:24]}-building"


@pytest.mark.parametrize("lock_days", [0, 2])
def test_a_lock_that_goes_with_its_build_is_not_left(folder: Path, cli: Cli, lock_days: float) -> None:
    build, lock = put(folder, BUILD), put(folder, f"{BUILD}.lock", 0, lock_days)
    cleared = cli("cache", "clear")
    assert (cleared.code, cleared.out) == (0, "indexes: 1 removed, 10 B\n10 B freed\n")
    assert not build.exists() and not lock.exists()


def test_a_build_that_goes_on_keeps_all_that_is_its(folder: Path, cli: Cli) -> None:
    build, aside = put(folder, BUILD), put(folder, f"{BUILD}-old")
    with filelock.FileLock(folder / f"{BUILD}.lock"):
        cleared = cli("cache", "clear")
        assert (cleared.code, cleared.out.count("left, since it is in use")) == (0, 3)
        assert build.exists() and aside.exists()
    assert json.loads(cli("cache", "clear", "--json").out)["left"] == []
    assert list((folder / "indexes").iterdir()) == []


def test_what_another_process_removes_meanwhile_is_not_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [put(folder, name) for name in NAMES[:2]]
    entries = cache.entries(["notes"])
    (found[0] / "file").unlink()
    found[0].rmdir()
    monkeypatch.setattr(cache, "entries", lambda kinds: entries)
    cleared = cache.clear(["notes"])
    assert ([entry.path for entry in cleared.removed], cleared.left) == ([found[1]], [])


def test_a_time_to_come_is_no_reason_to_stay(folder: Path) -> None:
    path = put(folder, NAMES[0], days=-1)
    assert cache.clear(["notes"], unused_for_s=1).removed == []
    assert [entry.path for entry in cache.clear(["notes"]).removed] == [path]


# What can't be removed


def test_answers_that_another_process_writes_are_one_line_and_a_failure(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_WAIT_S", 0.1)
    path = put_answers(folder, 10_000)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        cleared = cli("cache", "clear", "responses", "--yes")
        assert (cleared.code, cleared.err.count("\n")) == (1, 1)
        assert f"{path} can't be removed: database is locked; wait until" in cleared.err
        assert "0 B freed" in cleared.out
        as_json = cli("cache", "clear", "responses", "--yes", "--json")
        assert (as_json.code, json.loads(as_json.out)["faults"]) == (1, {str(path): "database is locked"})
    cleared = cli("cache", "clear", "responses", "--yes")
    assert (cleared.code, "0 B freed" in cleared.out) == (0, False)
    cleared = cli("cache", "clear", "responses", "--yes")  # what is left is the empty file
    assert (cleared.code, "0 B freed" in cleared.out) == (0, True)


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\1" * 5000])
def test_damaged_answers_are_one_line_and_a_failure(folder: Path, cli: Cli, content: bytes) -> None:
    folder.mkdir()
    (folder / "responses.sqlite").write_bytes(content)
    cleared = cli("cache", "clear", "responses", "--yes")
    assert (cleared.code, cleared.err.count("\n"), "remove the file by hand" in cleared.err) == (1, 1, True)
    assert (folder / "responses.sqlite").read_bytes() == content


def test_a_torn_page_is_damage_too(folder: Path, cli: Cli) -> None:
    path = put_answers(folder, 100_000)
    content = bytearray(path.read_bytes())
    content[4096 : 3 * 4096] = b"\xff" * 2 * 4096
    path.write_bytes(content)
    cleared = cli("cache", "clear", "responses", "--yes")
    assert (cleared.code, cleared.err.count("\n"), "remove the file by hand" in cleared.err) == (1, 1, True)


def test_answers_that_may_not_be_changed_are_a_failure(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put_answers(folder, 1000)
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options)
    )
    cleared = cli("cache", "clear", "responses", "--yes")
    assert (cleared.code, "readonly" in cleared.err, f"who may write to {folder}" in cleared.err) == (1, True, True)
    assert path.exists()


def test_a_file_without_answers_yet_is_no_failure(folder: Path, cli: Cli) -> None:
    folder.mkdir()
    (folder / "responses.sqlite").touch()
    assert cli("cache", "clear", "responses", "--yes").code == 0


@pytest.mark.parametrize("name", [NAMES[0], f"indexes/bm25-{HEX[:24]}", f"vectors/{HEX[:24]}.npy", "file_hashes.json"])
def test_what_the_system_keeps_is_a_failure_and_the_rest_goes(
    folder: Path, cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, other = put(folder, name), put(folder, NAMES[1], 20)
    refuse_to_remove(refused, monkeypatch)
    cleared = cli("cache", "clear")
    assert (cleared.code, cleared.err.count("\n"), other.exists()) == (1, 1, False)
    assert f"{refused} can't be removed: Permission denied; see who may write to {refused.parent}" in cleared.err
    assert cleared.out.endswith(f"left, since it can't be removed (Permission denied): {refused}\n20 B freed\n")
    as_json = cli("cache", "clear", "--json")
    assert (as_json.code, json.loads(as_json.out)["left"]) == (1, [str(refused)])


def test_what_is_in_use_is_said_and_no_failure(folder: Path, cli: Cli) -> None:
    path, owner = put(folder, NAMES[0]), Owner()
    cache.in_use(path, by=owner)
    cleared = cli("cache", "clear")
    assert (cleared.code, cleared.err) == (0, "")
    assert f"left, since it is in use, or may be written now: {path}" in cleared.out


# What is ours, and what can be seen of it


@pytest.mark.parametrize(
    "name",
    [
        "servers/my notes.log",
        "servers/.hidden.log",
        "servers/-.log",
        f"servers/{'x' * 49}.log",
        "servers/(1).log",
        "servers/qwen.log.txt",
        "servers/a/qwen.log",
        "servers/folder.log/file",
        f"vectors/{HEX[:24]}.npy/file",
        f"notes/{HEX[:24]}.txt",
    ],
)
def test_what_no_program_of_ours_names_so_stays(folder: Path, name: str) -> None:
    path = put(folder, name)
    assert cache.entries() == []
    cache.clear(["servers", "vectors", "notes"])
    assert path.exists()


@pytest.mark.parametrize("label", ["openai", "gguf:/models/Qwen3 8B.Q4_K_M.gguf", "通义千问" * 9, "my.module:LLM", "."])
def test_the_log_of_any_llm_is_ours(folder: Path, label: str) -> None:
    path = put(folder, f"servers/{slug(label)}.log")
    assert [entry.path for entry in cache.entries()] == [path]


def test_what_goes_while_it_is_measured_hides_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, NAMES[0], 1000)
    put(folder, NAMES[1], 2000)
    put_answers(folder, 10)
    listed = Path.iterdir

    def with_gone(path: Path) -> list[Path]:
        return [path / "gone", *listed(path)]

    lstat = Path.lstat

    def gone_meanwhile(path: Path) -> os.stat_result:
        if path.name == HEX[1:25]:
            raise FileNotFoundError(2, "No such file or directory")
        return lstat(path)

    monkeypatch.setattr(Path, "iterdir", with_gone)
    assert [entry.n_bytes for entry in cache.entries(["notes"])] == [1000, 2000]
    monkeypatch.setattr(Path, "lstat", gone_meanwhile)
    assert [entry.n_bytes for entry in cache.entries(["notes"])] == [1000]
    assert len(cache.entries()) == 2


def test_a_folder_that_may_not_be_looked_into_is_seen_and_said(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(folder, NAMES[0])
    listed, opened = Path.iterdir, os.open

    def refuse(each: Path) -> Iterator[Path]:
        if each == path:
            raise PermissionError(13, "Permission denied")
        return listed(each)

    def refuse_open(each: object, *arguments: int) -> int:
        if each == path:
            raise PermissionError(13, "Permission denied")
        return opened(str(each), *arguments)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "open", refuse_open)
    assert json.loads(cli("cache", "ls", "--json").out)["kinds"][0]["n"] == 1
    assert cli("cache", "clear").code == 1
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0")
    cache.make_room()
    assert path.exists()


@pytest.mark.parametrize("what", ["file", "dangling link", "link to a file", "unreadable"])
@pytest.mark.parametrize("command", [["ls"], ["clear"], ["ls", "--json"], ["clear", "responses", "--yes"]])
def test_a_cache_folder_that_is_none_is_one_line(
    folder: Path, cli: Cli, what: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "file":
        folder.write_text("")
    elif what == "unreadable":
        folder.mkdir()
        monkeypatch.setattr(Path, "iterdir", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    else:
        (folder.parent / "file").write_text("")
        folder.symlink_to(folder.parent / ("file" if what == "link to a file" else "nowhere"))
    done = cli("cache", *command)
    assert (done.code, done.err.count("\n"), done.out) == (2, 1, "")
    assert f"the cache folder {folder} can't be read: " in done.err
    assert "QILIN_RAG_CACHE" in done.err
    cache.make_room()


def test_a_cache_folder_that_is_a_link_is_the_folder(folder: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "disk").mkdir()
    folder.symlink_to(tmp_path / "disk")
    put(folder, NAMES[0])
    assert json.loads(cli("cache", "ls", "--json").out)["n_bytes"] == 10
    assert (cli("cache", "clear").code, cache.entries(), folder.is_symlink()) == (0, [], True)


def test_locks_are_counted_neither_by_ls_nor_by_clear(folder: Path, cli: Cli) -> None:
    put(folder, f"vectors/{HEX[:24]}.npy", 1500)
    put(folder, f"vectors/{HEX[:24]}.lock", 0)
    [row] = [row for row in json.loads(cli("cache", "ls", "--json").out)["kinds"] if row["kind"] == "vectors"]
    assert (row["n"], row["n_bytes"]) == (1, 1500)
    assert cli("cache", "clear").out == "vectors: 1 removed, 1.5 kB\n1.5 kB freed\n"
    assert list((folder / "vectors").iterdir()) == []
