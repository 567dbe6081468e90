"""Images in archives: read where they are, and whatever an archive claims, it does no harm."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qilin_rag.core import cache
from qilin_rag.core.errors import UsageError
from qilin_rag.data import tape
from qilin_rag.data.image_archives import ImageArchive
from qilin_rag.data.image_files import ImageFiles
from qilin_rag.data.image_names import name_in_index, place_in_archive, spellings
from qilin_rag.data.pictures import MAX_FILE_BYTES, ImageState

pytest.importorskip("indexed_gzip", reason="needs indexed-gzip: pip install 'qilin-rag[images]'")
from tests.conftest import Cli, write_jsonl

Member = tuple[tarfile.TarInfo, bytes]
SUFFIXES = ["tar.gz", "tgz", "tar"]
FILE, ODD = "image/part_7/1/a.webp", "冬\u3000天/👨\u200d🍳.jpg"


def member(name: str, content: bytes = b"", **attributes: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def tarred(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write(path: Path, content: bytes) -> ImageFiles:
    """Write a tar archive, compressed if its name says so; return the files of its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if path.suffix == ".tar" else gzip.compress(content, 1))
    return ImageFiles(path.parent)


def opened(path: Path) -> ImageArchive:
    return ImageArchive(path, path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("within", ["image/part_7/", "./image/part_7/", "part_7/", "./part_7/", "", "./"])
def test_a_file_is_found_however_it_is_named(within: str, suffix: str, tmp_path: Path) -> None:
    files = write(tmp_path / f"part_7.{suffix}", tarred(member(f"{within}1/a.webp", b"A"), member(within + ODD, b"C")))
    for name in (FILE, f"./{FILE}", "part_7/1/a.webp", "image//part_7/./1/a.webp"):
        assert files.read(name) == (b"A", ImageState.READ), name
    assert files.read(f"image/part_7/{ODD}") == (b"C", ImageState.READ)
    for name in ("image/part_7/1/b.webp", "image/part_8/1/a.webp", "1/a.webp", "part_7", ""):
        assert files.read(name) == (b"", ImageState.MISSING), name
    for name in ("../part_7/1/a.webp", "/part_7/1/a.webp", "image/../part_7/1/a.webp"):
        assert files.read(name) == (b"", ImageState.OUTSIDE), name


def test_folders_and_archives_of_two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacked files come first, and the folder of the data comes before the one named apart."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    write(data / "image/part_1.tar", tarred(member("1/a", b"in data's archive"), member("1/b", b"in data's archive")))
    (data / "image/part_1/1").mkdir(parents=True)
    (data / "image/part_1/1/a").write_bytes(b"in data's folder")
    write(elsewhere / "part_1.tar", tarred(*(member(f"1/{name}", b"elsewhere") for name in "abc")))
    (elsewhere / "part_2").mkdir()
    (elsewhere / "part_2/d").write_bytes(b"elsewhere's folder")
    monkeypatch.setenv("QILIN_RAG_IMAGES", str(elsewhere))
    files = ImageFiles(data)
    assert [path.parent.name for path in files.archives()] == ["image", "elsewhere"]
    read = {name: files.read(name)[0] for name in ("image/part_1/1/a", "image/part_1/1/b", "image/part_1/1/c")}
    assert list(read.values()) == [b"in data's folder", b"in data's archive", b"elsewhere"]
    assert files.read("image/part_2/d") == (b"elsewhere's folder", ImageState.READ)
    monkeypatch.setenv("QILIN_RAG_IMAGES", str(elsewhere / "nowhere"))
    with pytest.raises(UsageError, match="QILIN_RAG_IMAGES="):
        ImageFiles(data)


def test_data_stats_say_where_images_are(tmp_path: Path, cli: Cli) -> None:
    write(tmp_path / "image/part_1.tar.gz", tarred(member("1/a", b"A")))
    (tmp_path / "image/b.png").write_bytes(b"B")
    names = [["image/part_1/1/a", "image/b.png"], None, [], ["image/part_2/c", "../d", "image/part_1/2/e"]]
    rows = [{"note_idx": i, "title": "t", "content": "c", "image_path": each} for i, each in enumerate(names)]
    write_jsonl(tmp_path / "notes.jsonl", rows)
    found = json.loads(cli("data", "stats", tmp_path, "--json").out)["images"]
    assert found == {
        **{"notes with images": 2, "named": 5, "archives": 1, "looked for": 5},
        **{"in archives": 2, "in folders": 1, "missing": 1, "outside": 1},
    }
    assert not (tmp_path / "cache/archives").exists()  # no archive was indexed


def test_archives_behind_links_that_lead_outside_are_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "secret/part_7.tar", tarred(member("1/a.webp", b"A")))
    (tmp_path / "data/image").mkdir(parents=True)
    (tmp_path / "data/part_7.tar").symlink_to(tmp_path / "secret/part_7.tar")
    os.mkfifo(tmp_path / "data/part_8.tar")
    (tmp_path / "data/part_9.tar").mkdir()
    files = ImageFiles(tmp_path / "data")
    assert list(files.archives()) == []
    assert files.read(FILE) == (b"", ImageState.OUTSIDE)
    for part in (8, 9):
        assert files.read(f"image/part_{part}/1/a.webp") == (b"", ImageState.MISSING)


def test_a_file_in_the_middle_is_read_from_the_middle(tmp_path: Path) -> None:
    """Once indexed, the beginning of the archive is not needed, whatever stands there."""
    rng = random.Random(0)
    contents = {f"1/{i}.webp": rng.randbytes(100_000) for i in range(190)}
    path = tmp_path / "part_7.tar.gz"
    write(path, tarred(*(member(name, content) for name, content in contents.items())))
    archive = opened(path)
    assert archive.counts == {"files": len(contents)}
    names = list(contents)
    rng.shuffle(names)
    for name in names[:20]:
        assert archive.read(f"part_7/{name}") == (contents[name], ImageState.READ)
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(1000)  # behind the header
        file.write(bytes(2**20))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    archive = opened(path)  # by its index alone
    for i in (170, 189, 100):
        assert archive.read(f"part_7/1/{i}.webp") == (contents[f"1/{i}.webp"], ImageState.READ)
    assert archive.read("part_7/1/0.webp")[0] != contents["1/0.webp"]


def test_an_archive_that_changes_is_indexed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for content in (b"A", b"BB"):
        files = write(tmp_path / "part_7.tar.gz", tarred(member(FILE, content)))
        assert files.read(FILE) == files.read(FILE) == ImageFiles(tmp_path).read(FILE) == (content, ImageState.READ)
    assert len([line for line in caplog.messages if "indexing" in line]) == 2
    kept = [entry for entry in cache.entries(["archives"]) if entry.path.is_dir()]
    assert len(kept) == 2
    for damage in ("checkpoints", "members.sqlite"):
        for entry in kept:
            (entry.path / damage).write_bytes(b"nonsense")
        assert ImageFiles(tmp_path).read(FILE) == (b"BB", ImageState.READ), damage
    del files
    cache.clear(["archives"])
    assert cache.entries(["archives"]) == []


HOSTILE: dict[str, list[Member]] = {
    "links": [
        member("1/x", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("1/y", type=tarfile.LNKTYPE, linkname="1/a.webp"),
        member("1", type=tarfile.SYMTYPE, linkname="/etc"),
    ],
    "other kinds": [
        member("1/x", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member("1/y", type=tarfile.BLKTYPE),
        member("1/z", type=tarfile.FIFOTYPE),
    ],
    "outside": [
        *(member(name, b"x") for name in ("/etc/x", "../x", "image/../../x", "1/../../part_8/x", "image")),
        *(member(name, b"x") for name in ("1/\x01x", "1/" + "x" * 5000)),
    ],
    "duplicates": [member("1/a.webp", b"other"), member("image/part_7/1/a.webp", b"third")],
}


@pytest.mark.parametrize("reason", HOSTILE)
@pytest.mark.parametrize("suffix", ["tar.gz", "tar"])
def test_members_that_are_no_plain_files_are_counted(
    reason: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = [member("1", type=tarfile.DIRTYPE), member("1/a.webp", b"A"), *HOSTILE[reason], member("1/b.webp", b"B")]
    path = tmp_path / "data" / f"part_7.{suffix}"
    files = write(path, tarred(*members))
    before = sorted(tmp_path.iterdir())
    assert files.read(FILE) == (b"A", ImageState.READ)
    assert files.read("part_7/1/b.webp") == (b"B", ImageState.READ)
    for name in ("part_7/1/x", "part_7/1/y", "part_7/1/z", "part_7/x", "part_8/x"):
        assert files.read(name) == (b"", ImageState.MISSING), name
    assert opened(path).counts == {"files": 2, reason: len(HOSTILE[reason])}
    assert f"{len(HOSTILE[reason])} {reason}" in caplog.text
    assert sorted(tmp_path.iterdir()) == sorted({*before, tmp_path / "cache"})  # nothing was unpacked


def lying(size: int, content: bytes = b"A") -> bytes:
    """A member whose header claims this size."""
    return member("1/a.webp", content, size=size)[0].tobuf(tarfile.GNU_FORMAT) + content


PAX_SIZE = {"pax_headers": {"size": "-1536"}}
DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "text": b"<html>404 not found</html>" * 100,
    "no end": tarred(member("1/b.webp", b"B"))[:1024],
    "a size beyond the end": tarred(member("1/b.webp", b"B"))[:1024] + lying(10**6),
    "a size beyond any disk": tarred(member("1/b.webp", b"B"))[:1024] + lying(2**60),
    "a name of a gigabyte": lying(2**30).replace(b"0ustar", b"Lustar"),
    "a negative size": tarred(member("1/a.webp", b"A", **PAX_SIZE), member("1/b.webp", b"B")),
    "long names without end": tarred(*(member("x" * 500, b"x") for _ in range(4000)), format=tarfile.GNU_FORMAT),
    "a damaged header": tarred(member("1/b.webp", b"B"))[:1024] + b"\xff" * 512 + tarred(member("1/a.webp", b"A")),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("suffix", ["tar.gz", "tar"])
def test_a_damaged_archive_gives_what_came_before(damage: str, suffix: str, tmp_path: Path) -> None:
    files = write(tmp_path / f"part_7.{suffix}", DAMAGED[damage])
    content, state = files.read("image/part_7/1/b.webp")
    assert (content, state) in ((b"B", ImageState.READ), (b"", ImageState.DAMAGED_ARCHIVE), (b"", ImageState.MISSING))
    assert (state is ImageState.READ) == (b"1/b.webp" in DAMAGED[damage][:1024])
    assert files.read(FILE)[0] == b""


@pytest.mark.parametrize("damage", ["cut off", "overwritten", "not compressed", "trailing"])
def test_damaged_compression(damage: str, tmp_path: Path) -> None:
    contents = {f"1/{i}.webp": random.Random(i).randbytes(40_000) for i in range(50)}
    path = tmp_path / "part_7.tar.gz"
    write(path, tarred(*(member(name, content) for name, content in contents.items())))
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(
        {
            "cut off": whole[:half],
            "overwritten": whole[:half] + b"\xff" * 1000 + whole[half + 1000 :],
            "not compressed": gzip.decompress(whole),
            "trailing": whole + b"\1" * 1000,
        }[damage]
    )
    files = ImageFiles(tmp_path)
    found = {name: files.read(f"image/part_7/{name}") for name in contents}
    states = Counter(state for _, state in found.values())
    assert all(content == contents[name] for name, (content, state) in found.items() if state is ImageState.READ)
    assert set(states) <= {ImageState.READ, ImageState.DAMAGED_ARCHIVE}
    n_whole = {"cut off": 20, "trailing": 50}.get(damage, 0)
    assert states[ImageState.READ] >= n_whole
    assert states[ImageState.DAMAGED_ARCHIVE] > 0 or damage == "trailing"


def test_bombs_are_not_read_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "HARMLESS_BYTES", 2**20)
    content = tarred(member("1/b.webp", b"B"))[:1024] + lying(2**24, bytes(2**24)) + tarred(member("1/c.webp", b"C"))
    files = write(tmp_path / "part_7.tar.gz", content)
    assert files.read("image/part_7/1/b.webp") == (b"B", ImageState.READ)
    assert files.read("image/part_7/1/c.webp") == (b"", ImageState.DAMAGED_ARCHIVE)


def test_files_over_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "part_7.tar"
    path.write_bytes(lying(MAX_FILE_BYTES + 1))
    with path.open("r+b") as file:
        file.truncate(MAX_FILE_BYTES + 2**20)  # holes
    assert ImageFiles(tmp_path).read(FILE) == (b"", ImageState.TOO_LARGE)
    assert opened(path).counts == {"files": 0, "too large": 1}


READ = """
import sys
from contextlib import contextmanager
from pathlib import Path
from qilin_rag.core.progress import watched_by
from qilin_rag.data.image_files import ImageFiles

class Hung:
    @contextmanager
    def stage(self, name, total, done):
        def advance(n=1, failed=False):
            print("in the middle", flush=True)
            sys.stdin.read()
        yield advance

def read():
    print(ImageFiles(Path("data")).read("image/part_7/1/a.webp"))

if sys.argv[1:]:
    with watched_by(Hung()):
        read()
else:
    read()
"""


@pytest.mark.slow
def test_kill_9_and_two_processes(tmp_path: Path) -> None:
    """A process that is killed in the middle of indexing leaves nothing; two that want one index make one."""
    noise = random.Random(0).randbytes(3 * 2**20)
    write(tmp_path / "data/part_7.tar.gz", tarred(member("1/noise", noise), member("1/a.webp", b"A")))

    def reading(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", READ, *arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    killed = reading("hang")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "in the middle\n"
    waiting = [reading() for _ in range(2)]
    killed.kill()
    killed.wait()
    outs = [process.communicate(timeout=60)[0] for process in waiting]
    assert outs == [f"(b'A', {ImageState.READ!r})\n"] * 2
    entries = [entry.path.name for entry in cache.entries(["archives"])]
    assert sorted(name.partition(".")[2] for name in entries) == ["", "lock"], entries
    killed.communicate()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_bytes_do_no_harm(tmp_path: Path, data: st.DataObject) -> None:
    """An archive with any change of its bytes gives, for each name, a content or a reason."""
    content = bytearray(tarred(member("1/a.webp", b"A" * 600), member("1/" + "b" * 150, b"B"), member("1/c", b"C")))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 4500))
        piece = data.draw(st.binary(max_size=12) | st.sampled_from([b"0", b"L", b"x", b"2", struct.pack(">Q", 2**63)]))
        content[at : at + len(piece)] = piece
    path = tmp_path / data.draw(st.sampled_from(["part_7.tar", "part_7.tar.gz"]))
    for each in tmp_path.glob("part_7*"):
        each.unlink()
    files = write(path, bytes(content))
    for name in ("1/a.webp", "1/" + "b" * 150, "1/c", "1/none"):
        found, state = files.read(f"image/part_7/{name}")
        assert state in (ImageState.READ, ImageState.MISSING, ImageState.DAMAGED_ARCHIVE, ImageState.TOO_LARGE)
        assert state is ImageState.READ or not found


@given(st.text(max_size=30), st.integers(0, 300))
def test_a_name_has_one_place(rest: str, part: int) -> None:
    """All spellings of a name are of one file, and no name leads outside."""
    name = f"image/part_{part}/{rest}"
    place = place_in_archive(name)
    if place is None:
        assert ".." in rest.split("/") or not rest.strip("./") or re.search(r"[\x00-\x1f\x7f]", rest)
        assert spellings(name) == [name] or spellings(name)[1] == f"part_{part}"
        return
    assert place.archive == f"part_{part}"
    assert {place_in_archive(each) for each in spellings(name)} == {place}
    assert {name_in_index(each, place.archive) for each in spellings(name)} == {place.member}
    assert name_in_index(place.member.removeprefix(f"{place.archive}/"), place.archive) == place.member or rest.lstrip(
        "./"
    ).startswith(("part_", "image"))
