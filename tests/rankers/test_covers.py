"""Covers: read whatever lies there, and never let it do harm."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data import load_dataset
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.source import open_source
from tests.conftest import write_jsonl

Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[images]'")

from qilin_rag.data.covers import Covers  # noqa: E402
from qilin_rag.data.pictures import MAX_FILE_BYTES, ImageState  # noqa: E402


def catalogue_of(folder: Path, *covers: str | None) -> Catalogue:
    """Notes 0, 1, ... with these covers, below `folder`/data."""
    (folder / "data").mkdir(exist_ok=True)
    notes = [
        {"note_idx": i, "note_title": "t", "note_content": "c", "image_path": [cover, "other.png"] if cover else []}
        for i, cover in enumerate(covers)
    ]
    write_jsonl(folder / "data" / "notes.jsonl", notes)
    return open_catalogue(open_source(str(folder / "data")))


def short(width: int, height: int) -> bool:
    return width <= 10 * height


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def state_of(folder: Path, cover: str | None) -> ImageState:
    covers = Covers(catalogue_of(folder, cover), short)
    image = covers.read(0)
    (state,) = [state for state, n in covers.counts().items() if n]
    assert (image is not None) == (state is ImageState.READ)
    return state


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_the_formats_are_read_as_rgb(tmp_path: Path, kind: str, mode: str) -> None:
    catalogue = catalogue_of(tmp_path, "image/part_0/0/0.file")
    (tmp_path / "data/image/part_0/0").mkdir(parents=True)
    picture = Image.new("RGB", (40, 30), (200, 100, 50)).convert(mode)
    if (kind, mode) in {("png", "CMYK"), ("jpeg", "RGBA"), ("jpeg", "P"), ("webp", "CMYK"), ("gif", "CMYK")}:
        picture = picture.convert("RGB")  # the format has no such pictures
    picture.save(tmp_path / "data/image/part_0/0/0.file", kind)
    image = Covers(catalogue, short).read(0)
    assert image is not None and image.mode == "RGB" and image.size == (40, 30)
    if mode in ("RGB", "RGBA", "CMYK"):
        assert np.abs(np.asarray(image)[15, 20].astype(int) - [200, 100, 50]).max() <= 12


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data/up").symlink_to(tmp_path)
    (tmp_path / "data/loop").symlink_to(tmp_path / "data/loop")
    Image.new("RGB", (40, 30)).save(tmp_path / "data/own.png")
    (tmp_path / "data/inner.png").symlink_to("own.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "up/secret.png", "image/../../secret.png"):
        assert state_of(tmp_path, name) is ImageState.OUTSIDE, name
    assert state_of(tmp_path, "inner.png") is ImageState.READ
    assert state_of(tmp_path, "loop") in (ImageState.OUTSIDE, ImageState.MISSING)
    assert state_of(tmp_path, "a\0b") is ImageState.OUTSIDE


def test_what_is_no_sound_picture_is_passed_over(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    for kind in ("png", "jpeg", "webp"):
        Image.fromarray(noise).save(data / f"whole.{kind}")
        content = (data / f"whole.{kind}").read_bytes()
        (data / f"cut.{kind}").write_bytes(content[: len(content) // 2])
        assert state_of(tmp_path, f"cut.{kind}") is ImageState.DAMAGED
    Image.fromarray(noise).save(data / "a.bmp")
    (data / "empty.png").touch()
    (data / "text.png").write_text("<svg onload='x'/>")
    for name in ("a.bmp", "empty.png", "text.png"):
        assert state_of(tmp_path, name) is ImageState.DAMAGED, name
    os.mkfifo(data / "pipe.png")  # opening it would wait for ever
    (data / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png", "nothing.png", "x" * 5000, "whole.png/more.png"):
        assert state_of(tmp_path, name) is ImageState.MISSING, name
    assert state_of(tmp_path, None) is ImageState.NONE


def test_bombs_are_not_decoded(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "warned.png").write_bytes(png_header(10_000, 10_000))
    (data / "refused.png").write_bytes(png_header(60_000, 60_000))
    with (data / "long.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for name in ("warned.png", "refused.png", "long.png"):
        assert state_of(tmp_path, name) is ImageState.TOO_LARGE, name
    Image.new("RGB", (1000, 3)).save(data / "thread.png")
    assert state_of(tmp_path, "thread.png") is ImageState.TOO_NARROW


def test_the_log_says_how_many_have_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    covers = Covers(catalogue_of(tmp_path, "a.png", "a.png", "a.png", "gone.png", None, "../b.png"), short)
    Image.new("RGB", (40, 30)).save(tmp_path / "data/a.png")
    for note in (0, 1, 2, 3, 4, 5, 0, 3):
        covers.read(note)
    with caplog.at_level(logging.INFO, "qilin_rag"):
        covers.tell()
    [said] = caplog.messages
    for part in ("3 of 6 notes", "1 not named in the table", "1 outside the folder of the data", "1 missing"):
        assert part in said
    assert caplog.records[0].levelno == logging.INFO


def test_data_without_images_is_said(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"note_idx": 0, "note_title": "t", "note_content": "c"}])
    with pytest.raises(UsageError, match="no image_path"):
        Covers(open_catalogue(open_source(str(tmp_path))), short)


def test_a_run_that_reranks_sees_the_covers_of_its_notes(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"note_idx": 0, "title": "t", "content": "c", "image_path": ["a.png"]}])
    write_jsonl(tmp_path / "dqa.jsonl", [{"search_idx": 1, "query": "q", "answers": ["a"], "ref_note_idx_list": [0]}])
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    assert Covers(Catalogue(load_dataset(str(tmp_path)).notes), short).read(0) is not None
