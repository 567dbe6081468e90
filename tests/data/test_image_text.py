"""Reading what the images of notes say: with the real engine, resumable, the same by any number of processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qilin_rag as qr
from qilin_rag.core.errors import UsageError
from qilin_rag.core.note_fields import NoteField
from qilin_rag.data import load_dataset
from qilin_rag.data.source import IMAGE_TEXT_MANIFEST, open_source
from tests.conftest import Cli, launch, wait_until, write_jsonl

pytest.importorskip("rapidocr", reason="needs RapidOCR: pip install 'qilin-rag[ocr]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'qilin-rag[ocr]'")

from PIL import Image

from qilin_rag.data import image_text, ocr
from qilin_rag.data.image_text import PARTIAL, TABLE, read_images

ALL: tuple[NoteField, ...] = ("title", "content", "image_text")
CARD = open_source("sample-images").folder / "image" / "part_0" / "1_0.png"
N_NOTES = 30


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of all images of the bundled sample."""
    out = tmp_path_factory.mktemp("ocr") / "cards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
        read_images("sample-images", out)
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Many notes with small images without text, two with a card, one without images."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for i in range(N_NOTES):
        names = [f"{i}.png"] if i % 10 != 9 else []
        rows.append({"note_idx": N_NOTES - i, "title": f"note {i}", "content": "c", "image_path": names})
        for name in names:
            Image.new("RGB", (40, 30), (i, 0, 0)).save(folder / name)
    for i in (3, 17):
        shutil.copy(CARD, folder / f"{i}.png")
    write_jsonl(folder / "notes.jsonl", rows)
    write_jsonl(folder / "dqa.jsonl", [{"search_idx": 1, "query": "q", "answers": ["a"]}])
    return folder


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TABLE).read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_only_the_text_of_images_answers_what_images_say(cards: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"img-{i:02}\n" for i in range(1, 21)))
    figures = {}
    for fields in ("title,content", "title,content,image_text"):
        done = qr.run(data=cards, retriever="bm25", llm="extractive", note_fields=fields, metrics="contains", ids=ids)
        figures[fields] = [done.metrics[name].value or 0.0 for name in ("recall@5", "contains")]
        assert done.metrics["contains"].n == 20
    assert max(figures["title,content"]) <= 0.1
    assert min(figures["title,content,image_text"]) >= 0.9


@pytest.mark.slow
def test_texts_are_those_of_the_pictures(cards: Path) -> None:
    notes = load_dataset(str(cards), note_fields=("image_text",)).notes
    [note] = notes.get([1])
    assert note.title == ""
    assert {"六寸戚风蛋糕配方", "低筋面粉55克"} <= {line.replace(" ", "") for line in note.content.splitlines()}
    known = {row["note_idx"] for row in rows_in(cards)}
    catalogue = load_dataset("sample-images").notes
    paths = catalogue.read(catalogue.note_idxs, ["note_idx", "image_path"]).to_pylist()
    assert known == {row["note_idx"] for row in paths if row["image_path"]}
    assert {note.note_idx for note in notes if note.content} <= known < set(catalogue.note_idxs.tolist())


@pytest.mark.slow
def test_the_manifest_names_engine_and_models(cards: Path, cli: Cli) -> None:
    manifest = json.loads((cards / IMAGE_TEXT_MANIFEST).read_text())
    identity = manifest["identity"]
    assert manifest["data"] == "sample-images"
    assert identity["engine"] == "rapidocr"
    assert len(identity["models"]) == 3
    for name, sha256 in identity["models"].items():
        [path] = [path for path in ocr._models().values() if path.name == name]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    before = {path.name: path.read_bytes() for path in cards.iterdir()}
    again = cli("data", "ocr", "sample-images", "--out", cards)  # nothing is left to read
    assert again.code == 0, again.err
    assert "45 images read" in again.out
    assert cli("data", "ocr", cards).code == 0
    assert {path.name: path.read_bytes() for path in cards.iterdir()} == before


@pytest.mark.slow
def test_killed_and_resumed_by_other_numbers_of_processes(data: Path, cli: Cli) -> None:
    process = launch("data", "ocr", data, "--quiet")
    partial = data / PARTIAL
    wait_until(lambda: partial.exists() and partial.stat().st_size, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (data / TABLE).exists()
    with pytest.raises(UsageError, match="data ocr"):
        load_dataset(str(data), note_fields=ALL)
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines) + b'{"note_idx": 3, "image_te')
    done = cli("data", "ocr", data, "--jobs", "2", "--json")
    assert done.code == 0, done.err
    expected = {"folder": str(data), "notes": 27, "images": 27, "left_out": {}}
    figures = json.loads(done.out)
    assert {name: figures[name] for name in expected} == expected
    assert sorted(path.name for path in data.iterdir() if path.suffix != ".png") == [
        "dqa.jsonl",
        "image_text.jsonl",
        "image_text.manifest.json",
        "notes.jsonl",
    ]
    killed = (data / TABLE).read_bytes()
    assert {line.decode() for line in lines} <= {line.decode() for line in killed.splitlines(keepends=True)}
    for path in data.glob("image_text*"):
        path.unlink()
    read_images(str(data))
    assert (data / TABLE).read_bytes() == killed
    assert [row["note_idx"] for row in rows_in(data)] == [N_NOTES - i for i in range(N_NOTES) if i % 10 != 9]
    assert {row["note_idx"] for row in rows_in(data) if row["image_text"]} == {N_NOTES - 3, N_NOTES - 17}
    assert [note.content for note in load_dataset(str(data), note_fields=ALL).notes.get([1])] == ["c"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The images that an engine without models was given; each of their texts is the size of the image."""
    given: list[str] = []

    class Sizes:
        def read(self, image: Any) -> str:
            given.append(image.path)
            if "odd" in image.path:
                raise ZeroDivisionError(image.path)
            return str(len(image.jpeg))

    monkeypatch.setattr(image_text, "OcrEngine", Sizes)
    yield given


def test_what_was_added_is_read_and_nothing_twice(data: Path, counted: list[str], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (data / "notes.jsonl").read_text().splitlines()]
    first = read_images(str(data))
    assert len(counted) == first.images == 27
    counted.clear()
    rows[9]["image_path"] = ["new.png", "gone.png"]
    rows[4]["image_path"] = []
    write_jsonl(data / "notes.jsonl", [*rows, {"note_idx": 99, "title": "t", "content": "c", "image_path": ["99.png"]}])
    for name in ("new", "99"):
        Image.new("RGB", (9, 9)).save(data / f"{name}.png")
    done = read_images(str(data))
    assert counted == ["new.png", "99.png"]
    assert (done.notes, done.images, done.left_out) == (28, 28, {"missing": 1})
    counted.clear()
    Image.new("RGB", (9, 9)).save(data / "gone.png")  # unpacked since
    assert read_images(str(data)).left_out == {}
    assert counted == ["new.png", "gone.png"]


def test_images_that_cannot_be_read_are_counted(data: Path, counted: list[str], cli: Cli) -> None:
    Image.new("RGB", (9, 9)).save(data / "odd.png")
    (data / "text.png").write_text("this is no image")
    (data / "cut.png").write_bytes(CARD.read_bytes()[:300])
    names = ["odd.png", "text.png", "cut.png", "../secret.png", "/etc/passwd", "gone.png", "0.png"]
    rows = [{"note_idx": 1, "title": "t", "content": "c", "image_path": names}]
    write_jsonl(data / "notes.jsonl", rows)
    done = cli("data", "ocr", data)
    assert done.code == 0
    assert "1 image read, 6 left out (2 damaged, 1 missing, 2 outside, 1 unreadable)" in done.out.replace("\n", " ")
    [row] = rows_in(data)
    assert row["images"] == 1
    assert counted == ["odd.png", "0.png"]


@pytest.mark.parametrize("is_complete", [True, False])
def test_another_engine_or_setting_is_refused(
    is_complete: bool, data: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    if is_complete:
        read_images(str(data))
    else:
        monkeypatch.setattr(image_text, "_finish", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            read_images(str(data))
        monkeypatch.undo()
        monkeypatch.chdir(data.parent)
    kept = {path.name: path.read_bytes() for path in data.glob("image_text*")}
    other = cli("data", "ocr", data, "--images-per-note", "1")
    assert other.code == 2
    assert "another images_per_note (None, now 1)" in other.err
    identity = ocr.engine_identity()
    for name, value in {"rapidocr": "3.8.0", "models": {"other.onnx": "0"}}.items():
        monkeypatch.setattr(image_text, "engine_identity", lambda change={name: value}: identity | change)
        refused = cli("data", "ocr", data)
        assert refused.code == 2
        assert f"another {name}" in refused.err
        assert "remove image_text.*" in refused.err
    assert {path.name: path.read_bytes() for path in data.glob("image_text*")} == kept


def test_places_that_are_not_for_it(data: Path, tmp_path: Path, counted: list[str], cli: Cli) -> None:
    bundled = cli("data", "ocr", "sample-images")
    assert bundled.code == 2
    assert "--out FOLDER" in bundled.err
    assert cli("data", "ocr", "sample").code == 2
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    assert "not empty" in cli("data", "ocr", data, "--out", taken).err
    assert cli("data", "ocr", data, "--out", "texts").code == 0
    assert "other data" in cli("data", "ocr", "sample-images", "--out", "texts").err
    no_images = tmp_path / "no_images"
    no_images.mkdir()
    write_jsonl(no_images / "notes.jsonl", [{"note_idx": 1, "title": "t", "content": "c"}])
    assert "no image_path" in cli("data", "ocr", no_images).err
    (data / TABLE).write_text('{"note_idx": 1, "image_text": "by hand"}\n')
    by_hand = cli("data", "ocr", data)
    assert by_hand.code == 2
    assert "not made by this command" in by_hand.err
    assert (data / TABLE).read_text() == '{"note_idx": 1, "image_text": "by hand"}\n'


def test_ids_that_are_text_stay_text(data: Path, counted: list[str]) -> None:
    rows = [{"note_idx": name, "title": "t", "content": "c", "image_path": ["0.png"]} for name in ("n-2", "7", "n-1")]
    write_jsonl(data / "notes.jsonl", rows)
    read_images(str(data))
    assert [row["note_idx"] for row in rows_in(data)] == ["n-2", "7", "n-1"]
    assert all(note.content.startswith("c\n") for note in load_dataset(str(data), note_fields=ALL).notes)
    counted.clear()
    read_images(str(data))
    assert not counted


def test_only_the_notes_of_a_run(data: Path, counted: list[str], tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run.trec"
    notes = [N_NOTES - i for i in (4, 2, 9)]  # the last has no images
    run.write_text("".join(f"q Q0 {note} {rank} {-rank} t\n" for rank, note in enumerate(notes, start=1)))
    done = cli("data", "ocr", data, "--retrieved", run, "--json")
    assert done.code == 0, done.err
    assert counted == ["2.png", "4.png"]
    assert json.loads(done.out)["notes"] == len(rows_in(data)) == 2
    counted.clear()
    run.write_text(f"q Q0 {N_NOTES} 1 1 t\n")
    assert cli("data", "ocr", data, "--retrieved", run).code == 0
    assert counted == ["0.png"]
    assert [row["note_idx"] for row in rows_in(data)] == [N_NOTES, N_NOTES - 2, N_NOTES - 4]
    counted.clear()
    assert read_images(str(data)).notes == 27
    assert len(counted) == 24
    by_parts = (data / TABLE).read_bytes()
    for path in data.glob("image_text*"):
        path.unlink()
    read_images(str(data))
    assert (data / TABLE).read_bytes() == by_parts
    run.write_text("q Q0 12345 1 1 t\n")
    wrong = cli("data", "ocr", data, "--retrieved", run)
    assert (wrong.code, "12345" in wrong.err) == (2, True)


def test_without_any_image_there_is_no_table(data: Path, counted: list[str], cli: Cli) -> None:
    away = data.parent / "away"
    away.mkdir()
    for path in data.glob("*.png"):
        path.rename(away / path.name)
    done = cli("data", "ocr", data)
    assert done.code == 2
    assert f"none of the 27 images is in {data}" in done.err
    assert not (data / TABLE).exists()
    for path in away.iterdir():
        path.rename(data / path.name)
    assert read_images(str(data)).images == len(counted) == 27
