"""Images of notes as they are sent to a model, and the reasons for those that are not."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.source import open_source
from tests.conftest import write_jsonl

pillow = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[images]'")

from qilin_rag.data.note_images import NoteImages  # noqa: E402


def catalogue_of(folder: Path, *names: Sequence[str | None] | None) -> Catalogue:
    """Notes 0, 1, ... with these images, below `folder`."""
    folder.mkdir(exist_ok=True)
    rows = [{"note_idx": i, "note_title": "t", "note_content": "c", "image_path": each} for i, each in enumerate(names)]
    write_jsonl(folder / "notes.jsonl", rows)
    return open_catalogue(open_source(str(folder)))


def test_the_first_images_of_each_note(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, ["a.png", "gone.png", "b.png"], ["b.png", "a.png"], None, [])
    pillow.new("RGB", (300, 200), "red").save(tmp_path / "a.png")
    pillow.new("RGB", (20, 30), "blue").save(tmp_path / "b.png")
    images = NoteImages(catalogue.notes, longest_side=100)
    found = images.of_notes([1, 0, 2, 3, 77, 0], 2)
    assert list(found) == [1, 0, 2, 3, 77]
    assert [image.path for image in found[1][0]] == ["b.png", "a.png"]
    assert [image.path for image in found[0][0]] == ["a.png"]
    assert found[0][1] == Counter({"missing": 1})
    assert found[2] == found[3] == found[77] == ([], Counter())
    sizes = [pillow.open(io.BytesIO(image.jpeg)).size for image in found[1][0]]
    assert sizes == [(20, 30), (100, 67)]
    assert images.of_notes([0], 0) == {0: ([], Counter())}
    assert images.read_all(["a.png"])[0] == found[0][0]


def test_an_empty_place_in_the_list_is_counted(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, [None, "a.png", ""])
    pillow.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    [(images, left_out)] = NoteImages(catalogue.notes).of_notes([0], 3).values()
    assert [image.path for image in images] == ["a.png"]
    assert left_out == Counter({"none": 1, "missing": 1})
