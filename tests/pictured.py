"""The small data set with images, and what a server is sent of them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NOTES, QUESTIONS, write_jsonl

Pillow = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[images]'")

IMAGES: dict[int, list[str]] = {10: ["a.png", "b.png"], 11: ["c.png"], 12: [], 13: ["gone.png", "d.png"], 14: ["a.png"]}
SIZES = {"a.png": (60, 40), "b.png": (40, 60), "c.png": (2000, 1000), "d.png": (30, 30)}


def write_pictured(folder: Path) -> Path:
    """Write the data: note 12 names no image, and the first of note 13 is missing."""
    (folder / "image").mkdir(parents=True)
    for shade, (name, size) in enumerate(SIZES.items()):
        Pillow.new("RGB", size, (60 * shade, 90, 120)).save(folder / "image" / name)
    notes = [{**note, "image_path": [f"image/{name}" for name in IMAGES[int(str(note["note_idx"]))]]} for note in NOTES]
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "dqa.jsonl", QUESTIONS)
    return folder


def parts_of(body: dict[str, Any]) -> list[str | bytes]:
    """Return what a request shows the model, in its order: texts, and the bytes of images."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return [content]
    return [_shown(part) for part in content]


def _shown(part: dict[str, Any]) -> str | bytes:
    if part["type"] == "text":
        return str(part["text"])
    kind, _, encoded = part["image_url"]["url"].partition(";base64,")
    assert (part["type"], kind) == ("image_url", "data:image/jpeg")
    return base64.b64decode(encoded)


def text_of(body: dict[str, Any]) -> str:
    """Return all texts of a request's last message, joined."""
    return "".join(part for part in parts_of(body) if isinstance(part, str))


def images_of(bodies: Sequence[dict[str, Any]]) -> list[bytes]:
    """Return the bytes of all images in requests, in their order."""
    return [part for body in bodies for part in parts_of(body) if isinstance(part, bytes)]


def answer(body: dict[str, Any]) -> str:
    """Answer by the last words and the number of images."""
    return f"{text_of(body)[-30:]} {len(images_of([body]))}"
