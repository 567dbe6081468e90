"""Writes the bundled data set `sample-images` from sample_images.yaml: `python -m docgen.sample_images`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from qilin_rag.synth.text_cards import check_drawing, draw_card, draw_scene, encode

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = Path(__file__).with_suffix(".yaml")
OUT = Path(__file__).parents[1] / "qilin_rag" / "data" / "sample_images"
_IMAGES = "image/part_0"


class Picture(NamedTuple):
    """An image of a note: its path in the data set, its format, and the lines on it or the seed of a scene."""

    path: str
    form: str
    card: list[str] | None
    scene: int

    def draw(self) -> Image:
        """Return the picture before it is encoded."""
        return draw_scene(self.scene) if self.card is None else draw_card(self.card, paper=len(self.card[0]))


def read_source() -> dict[str, Any]:
    """Return the notes and questions of the YAML file."""
    source: dict[str, Any] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return source


def pictures(note_idx: int, note: dict[str, Any]) -> Iterator[Picture]:
    """Yield the images of a note."""
    for i, image in enumerate(note["images"]):
        form = image["format"]
        yield Picture(f"{_IMAGES}/{note_idx}_{i}.{form}", form, image.get("card"), image.get("scene", 0))


def write(out: Path) -> None:
    """Write the tables notes and dqa and all images, in place of those there."""
    check_drawing("sample-images")
    source = read_source()
    shutil.rmtree(out / "image", ignore_errors=True)
    (out / _IMAGES).mkdir(parents=True)
    notes: list[dict[str, Any]] = []
    for note_idx, note in enumerate(source["notes"]):
        found = list(pictures(note_idx, note))
        for picture in found:
            (out / picture.path).write_bytes(encode(picture.draw(), picture.form))
        texts = {name: note[name] for name in ("title", "content")}
        notes.append({"note_idx": note_idx, **texts, "image_path": [picture.path for picture in found]})
    numbers = {note["id"]: note_idx for note_idx, note in enumerate(source["notes"])}
    questions = [
        {
            "search_idx": question["id"],
            "query": question["query"],
            "answers": [f"{question['answer']}[第1篇](#)"],
            "ref_note_idx_list": [numbers[question["note"]]],
            "kind": "image" if question["id"].startswith("img") else "text",
        }
        for question in source["questions"]
    ]
    for name, rows in (("notes", notes), ("dqa", questions)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write(OUT)
