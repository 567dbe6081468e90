"""The cache folder: what is in it, one limit over all of it, and what is never removed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from qilin_rag.core import cache
from qilin_rag.core.checksums import file_record, is_as_recorded
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Completion
from qilin_rag.llms.cache import ResponseCache
from tests.conftest import Cli

MB = 1_000_000
HEX = "0123456789abcdef" * 2
NOTES, INDEX = f"notes/{HEX[:24]}", f"indexes/bm25-{HEX[:24]}"
NPY, SHARD = f"vectors/{HEX[:24]}.npy", f"vectors/tiny-{HEX[:16]}/{HEX[:16]}.safetensors"
LOG = "servers/qwen.log"
ALL = (NOTES, INDEX, NPY, SHARD, LOG, "file_hashes.json", "responses.sqlite")


class Owner:
    """Something that uses an entry."""


def answer(text: str) -> Completion:
    return Completion(text=text, raw="", model="m", finish_reason="stop")


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


@pytest.fixture
def full(own_folder: Path) -> Path:
    """One of each kind, of a megabyte, used on another day each, the notes first; the folder."""
    folder = cache.cache_dir()
    for place in [f"{NOTES}/notes.arrow", f"{INDEX}/rows.npy", NPY, SHARD, LOG, "file_hashes.json"]:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(bytes(MB))
    answers = ResponseCache(folder / "responses.sqlite")
    answers.put("key", answer("x" * MB))
    answers.close()
    for i, place in enumerate(ALL):
        age(folder / place, 10 - i)
    return folder


def kept(folder: Path) -> set[str]:
    return {place for place in ALL if (folder / place).exists()}


def test_each_kind_is_known_with_its_size_and_use(full: Path) -> None:
    found = cache.entries()
    kinds = ("notes", "indexes", "vectors", "vectors", "servers", "hashes", "responses")
    assert [(each.kind, each.path.relative_to(full).as_posix()) for each in found] == list(zip(kinds, ALL, strict=True))
    assert [entry.n_bytes for entry in found[:-1]] == [MB] * 6
    assert found[-1].n_bytes > MB
    assert [round((time.time() - entry.used) / 86400) for entry in found] == list(range(10, 3, -1))


@pytest.mark.parametrize(
    ("limit_gb", "n_gone"), [("", 0), ("100", 0), ("0.0065", 1), ("0.0055", 2), ("0.0035", 4), ("0", 6)]
)
def test_what_was_not_used_for_longest_goes_first(
    full: Path, limit_gb: str, n_gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", limit_gb)
    cache.make_room()
    assert kept(full) == set(ALL[n_gone:])


def test_what_is_in_use_stays_here_and_in_other_processes(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0")
    owner = Owner()
    cache.in_use(full / NOTES, by=owner)
    code = (
        "import sys\nfrom pathlib import Path\nfrom qilin_rag.core.cache import in_use\nclass Owner: pass\n"
        "owner = Owner()\nin_use(Path(sys.argv[1]), by=owner)\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(full / SHARD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        cache.make_room()
        assert kept(full) == {NOTES, SHARD, "responses.sqlite"}
        assert {entry.path for entry in cache.clear(["notes", "vectors"]).left} == {full / NOTES, full / SHARD}
        other.communicate("")
    cache.make_room()
    assert kept(full) == {NOTES, "responses.sqlite"}
    del owner
    gc.collect()
    cache.make_room()
    assert kept(full) == {"responses.sqlite"}


def test_without_locks_what_was_used_within_the_hour_stays(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refuse)
    cache.in_use(full / INDEX, by=Owner())
    cleared = cache.clear(["notes", "indexes"])
    assert [entry.path for entry in cleared.removed] == [full / NOTES]
    assert [entry.path for entry in cleared.left] == [full / INDEX]


def test_a_folder_that_may_not_be_read_stops_nothing(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name in ("indexes", f"tiny-{HEX[:16]}"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0")
    cache.make_room()
    assert kept(full) == {INDEX, SHARD, "responses.sqlite"}


def test_use_moves_to_the_end_of_the_queue(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0.0055")
    for place in (NOTES, NPY):
        cache.in_use(full / place, by=Owner())
    cache.make_room()
    assert kept(full) == set(ALL) - {INDEX, SHARD}


def test_what_we_did_not_name_and_what_links_lead_to_stays(full: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "precious").write_bytes(bytes(MB))
    own = [full / "indexes" / "my-index" / "rows.npy", full / "vectors" / "mine.npy", full / "thesis.pdf"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10))
    links = [
        full / "notes" / HEX[8:32],  # named as ours
        full / f"vectors/tiny-{HEX[:16]}" / f"{HEX[1:17]}.safetensors",
        full / "vectors" / f"other-{HEX[:16]}",
        full / INDEX / "link",  # goes with the index, and not what it leads to
    ]
    for link in links:
        link.symlink_to(outside)
    age(full / INDEX, 1)
    assert sum(entry.n_bytes for entry in cache.entries(["notes", "indexes", "vectors"])) == 4 * MB
    cache.clear(["notes", "indexes", "vectors", "hashes", "servers"])
    assert kept(full) == {"responses.sqlite"}
    assert (outside / "deep" / "precious").exists()
    assert all(path.exists() for path in own)
    assert [link.is_symlink() for link in links] == [True, True, True, False]


def test_a_kind_whose_folder_is_a_link_is_left_alone(own_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / HEX[:24]).mkdir(parents=True)
    cache.cache_dir().mkdir()
    (cache.cache_dir() / "notes").symlink_to(tmp_path / "disk")
    assert cache.entries() == []
    assert cache.clear(["notes"]) == ([], [])
    assert (tmp_path / "disk" / HEX[:24]).is_dir()


def test_what_may_be_written_now_stays_and_what_was_abandoned_goes(full: Path) -> None:
    young, old = full / f"notes/.{HEX[:24]}-abcd1234", full / f"notes/.{HEX[8:32]}-abcd1234"
    build, dead = full / f"indexes/.bm25-{HEX[:24]}-building", full / f"indexes/.bm25-{HEX[8:32]}-building"
    for folder in (young, old, build, dead):
        folder.mkdir()
        (folder / "half").write_bytes(bytes(10))
    for folder in (old, build, dead):
        age(folder / "half", 1)
        age(folder, 1)
    with filelock.FileLock(f"{build}.lock"):
        cache.clear(["notes", "indexes"])
    assert [folder.exists() for folder in (young, old, build, dead)] == [True, False, True, False]


@pytest.mark.parametrize("given", ["many", "-1", "nan", "1e9x", "inf"])
def test_a_limit_that_is_no_number_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", given)
    with pytest.raises(UsageError, match=r"QILIN_RAG_CACHE_GB=.* must be a number of GB"):
        cache.limit_bytes()


def test_the_command_lists_and_clears(full: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = cli("cache", "ls")
    assert listed.code == 0, listed.err
    assert max(map(len, listed.out.splitlines()[:-1])) <= 80  # the last line is the folder
    assert all(kind in listed.out for kind in cache.KINDS)
    assert "2.0 MB" in listed.out
    figures = json.loads(cli("cache", "ls", "--json").out)
    assert {row["kind"]: row["n"] for row in figures["kinds"]} == {
        kind: {"vectors": 2, "archives": 0, "exports": 0, "scores": 0, "figures": 0}.get(kind, 1)
        for kind in cache.KINDS
    }
    assert figures["n_bytes"] == sum(row["n_bytes"] for row in figures["kinds"]) > 7 * MB

    cleared = cli("cache", "clear", "vectors", "--older-than", "7.5")
    assert (cleared.code, "1.0 MB freed" in cleared.out) == (0, True)
    assert kept(full) == set(ALL) - {NPY}
    assert json.loads(cli("cache", "clear", "--json").out)["n_bytes"] == 5 * MB
    assert kept(full) == {"responses.sqlite"}
    assert cli("cache", "clear").out == "0 B freed\n"


def test_each_kind_can_be_named(own_folder: Path, cli: Cli) -> None:
    for kind in cache.KINDS:
        assert cli("cache", "clear", kind, "--yes").code == 0
    assert cli("cache", "clear", "everything").code == 2
    assert cli("cache", "ls").code == 0
    assert not cache.cache_dir().exists()


def test_answers_that_were_paid_for_go_only_when_asked_twice(full: Path, cli: Cli) -> None:
    refused = cli("cache", "clear", "responses")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    answers = ResponseCache(full / "responses.sqlite")
    assert answers.get("key") is not None
    cleared = cli("cache", "clear", "responses", "--yes")
    assert (cleared.code, "1.0 MB freed" in cleared.out) == (0, True), cleared.err
    assert answers.get("key") is None  # who has it open goes on with it
    answers.put("new", answer("y"))
    answers.close()
    again = ResponseCache(full / "responses.sqlite")
    assert again.get("new") is not None
    again.close()


def test_an_index_that_was_cleared_is_made_again(cli: Cli) -> None:
    run = ("run", "--limit", "2", "--json")
    first = json.loads(cli(*run).out)
    [index] = cache.entries(["indexes"])
    age(index.path, 5)
    cli(*run, "--fresh")
    [again] = cache.entries(["indexes"])
    assert again.path == index.path
    assert again.used > time.time() - 86400
    gc.collect()
    assert json.loads(cli("cache", "clear", "--json").out)["left"] == []
    assert cache.entries() == []
    assert json.loads(cli(*run, "--fresh").out)["metrics"] == first["metrics"]


def test_a_checksum_costs_nothing_until_a_file_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vectors.npy"
    path.write_bytes(b"1234")
    record = file_record(path)
    age(path, 1)
    assert is_as_recorded(path, record)  # touched: read once
    monkeypatch.setattr("qilin_rag.core.checksums.file_digest", lambda _: pytest.fail("read again"))
    assert is_as_recorded(path, record)
    cache.in_use(path, by=Owner())
    assert is_as_recorded(path, record)  # use is no change
    path.write_bytes(b"12345")
    assert not is_as_recorded(path, record)
    monkeypatch.undo()
    path.write_bytes(b"1235")
    age(path, 1)
    assert not is_as_recorded(path, record)
