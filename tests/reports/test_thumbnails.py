"""Images of notes in the report: small copies of what can be read, within limits, and nothing of the originals."""

from __future__ import annotations

import base64
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from qilin_rag.core import extras
from qilin_rag.data import load_dataset
from qilin_rag.data.note_images import NoteImages
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports import thumbnails
from qilin_rag.reports.contents import Contents, collect
from qilin_rag.reports.html import as_html, images_folder, write_report
from qilin_rag.reports.packing import unpack
from qilin_rag.reports.thumbnails import (
    LONGEST_SIDE,
    MOST_IMAGE_BYTES,
    MOST_PER_NOTE,
    ImageMode,
    Limits,
    NoteThumbnails,
    images_sent,
)
from tests.conftest import Cli, write_jsonl
from tests.reports.pictured import CANARY, NAMES, ODD_NAME, REASONS, pictured_run

Image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'qilin-rag[images]'")

TWO_MORE = ["1 image not shown: outside", "1 image not shown: too large"]


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return pictured_run(tmp_path_factory.mktemp("images"))


def test_the_page_holds_copies_and_nothing_of_the_originals(pictured: RunDirectory) -> None:
    contents = collect([pictured.path], "embed")
    page = as_html(contents)
    assert policy_of(page)["img-src"] == ["data:"]
    part = part_of(contents)
    shown = {int(note): images for note, images in part["images"].items()}
    assert set(shown) == {0, 2, 3, 4}
    assert [len(shown[note]) for note in sorted(shown)] == [len(names) for names in NAMES if names]
    sources = [image["src"] for images in shown.values() for image in images if "src" in image]
    assert len(sources) == 4
    for source in sources:
        kind, _, encoded = source.partition(",")
        assert kind == "data:image/webp;base64"
        check_copy(base64.b64decode(encoded))
    assert ODD_NAME not in json.dumps(part, ensure_ascii=False)
    reasons = [image["why"] for images in shown.values() for image in images if "why" in image]
    assert {why: reasons.count(why) for why in reasons} == REASONS
    assert contents.remarks() == [
        "4 images of notes",
        "3 images not shown: damaged",
        "1 image not shown: missing",
        "2 images not shown: outside",
        "1 image not shown: too large",
    ]


def test_a_page_links_to_copies_beside_it(pictured: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "a:b #1?.html"
    contents = collect([pictured.path], "link", images_folder(out).name)
    write_report(contents, out)
    write_report(contents, out)
    assert policy_of(out.read_text(encoding="utf-8"))["img-src"] == ["'self'"]
    sources = {image["src"] for images in part_of(contents)["images"].values() for image in images if "src" in image}
    assert {path.name for path in images_folder(out).iterdir()} == {source.rpartition("/")[2] for source in sources}
    for source in sources:
        assert re.fullmatch(r"[\w%.]+/[0-9a-f]{20}\.webp", source)
        check_copy((tmp_path / unquote(source)).read_bytes())


def test_images_are_shown_if_a_run_sent_some_and_as_many(
    pictured: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows_none: tuple[ImageMode | None, ...] = (None, "none")
    for images in shows_none:
        contents = collect([pictured.path], images)
        assert "images" not in part_of(contents)
        assert "img-src" not in policy_of(as_html(contents))
        assert contents.remarks() == []
    monkeypatch.setattr(thumbnails, "images_sent", lambda manifests: 1)
    assert {len(images) for images in part_of(collect([pictured.path]))["images"].values()} == {1}
    assert "images" not in part_of(collect([pictured.path], "none"))


def test_what_a_run_says_that_it_sent_is_bounded(pictured: RunDirectory) -> None:
    manifest = pictured.read_manifest()
    for value, n in ((0, 0), (2, 2), (10**9, MOST_PER_NOTE), (-1, 0), ("9", 0), (None, 0), ([3], 0)):
        stranger = manifest.model_copy(update={"config": {**manifest.config, "note_images": value}})
        assert images_sent([manifest, stranger]) == n


def test_what_is_beyond_the_limits_is_left_out_and_said(
    pictured: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.reports.contents.QUESTIONS_PER_BLOCK", 1)
    whole = part_of(collect([pictured.path], "embed"))["images"]
    sources = [image["src"] for images in whole.values() for image in images if "src" in image]
    n_bytes = sum(len(base64.b64decode(source.partition(",")[2])) for source in sources)
    for limits, n in ((Limits(2, 10**9), 2), (Limits(10, n_bytes), 1), (Limits(10, n_bytes - 1), 0)):
        monkeypatch.setattr(thumbnails, "LIMITS", {"embed": limits})
        contents = collect([pictured.path], "embed")
        parts = [part_of(contents, number) for number in range(4)]
        left_out = [part["questions"][0].get("images_left_out", False) for part in parts]
        assert left_out == [False] * n + [True] * (4 - n)
        assert [bool(part["images"]) for part in parts] == [True] * n + [False] * (4 - n)
        assert contents.remarks()[-1].startswith(f"the images of {4 - n} of 4 questions are left out")


def test_the_images_of_a_note_are_made_once_also_for_requests_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, n_read = NoteImages.read_all, 0

    def watched(images: NoteImages, paths: list[str]) -> Any:
        nonlocal n_read
        n_read += 1
        time.sleep(0.02)
        return read(images, paths)

    monkeypatch.setattr(NoteImages, "read_all", watched)
    note = {"note_idx": 7, "title": "题", "content": "文", "image_path": [None, "a.png", "none.png"]}
    write_jsonl(tmp_path / "notes.jsonl", [note])
    question = {"search_idx": 1, "query": "问", "answers": ["答"], "ref_note_idx_list": [7]}
    write_jsonl(tmp_path / "dqa.jsonl", [question])
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    images = NoteThumbnails(load_dataset(str(tmp_path)), 3)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(images.of_note, [7] * 8))
    assert n_read == images.counts([7])[7] == 2  # a name that is null is none
    assert made == [made[0]] * 8
    assert [(bool(each.content), each.why) for each in made[0]] == [(True, ""), (False, "missing")]


def test_the_command_says_what_it_left_out(pictured: RunDirectory, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "images_sent", lambda manifests: 1)
    done = cli("report", pictured.path, "--out", "page.html")
    assert done.code == 0
    assert done.err.splitlines() == ["1 image of notes", "1 image not shown: damaged", *TWO_MORE]
    assert cli("report", pictured.path, "--images", "link", "--out", "linked.html").code == 0
    assert len(list(Path("linked_images").iterdir())) == 1
    Path("file_images").touch()
    in_the_way = cli("report", pictured.path, "--images", "link", "--out", "file.html")
    assert (in_the_way.code, in_the_way.err.count("\n")) == (2, 1)
    monkeypatch.setattr(extras, "missing_modules", lambda *modules: [name for name in modules if name == "PIL"])
    refused = cli("report", pictured.path, "--images", "embed", "--out", "none.html")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--images embed needs PIL" in refused.err
    assert not Path("none.html").exists()
    without = cli("report", pictured.path, "--out", "none.html")
    assert without.code == 0
    assert "needs PIL" in without.err


def check_copy(content: bytes) -> None:
    assert CANARY.encode() not in content
    assert len(content) <= MOST_IMAGE_BYTES
    with Image.open(BytesIO(content)) as image:
        assert image.format == "WEBP"
        assert max(image.size) <= LONGEST_SIDE


def part_of(contents: Contents, number: int = 0) -> Any:
    return unpack(contents.blocks[f"t0-part{number}"])


def policy_of(page: str) -> dict[str, list[str]]:
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = [rule.split() for rule in policy.replace("&#39;", "'").split(";")]
    return {name: values for name, *values in rules}
