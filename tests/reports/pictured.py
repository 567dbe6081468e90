"""A run over notes with images, honest and hostile ones."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.conftest import write_jsonl

CANARY = "the-bytes-of-the-original"
ODD_NAME = "\"><img src=x onerror=window.hacked=1>'#?.png"
REASONS = {"damaged": 3, "missing": 1, "outside": 2, "too large": 1}
NAMES = [
    ["card.png", "photo.jpeg", ODD_NAME],
    [],
    ["../secret.png", "link.png", "nowhere.png"],
    ["script.png", "cut.png", "page.webp"],
    ["bomb.png", "noise.png"],
]
"""The images of notes 0 to 4; seven can't be shown, for the reasons above."""


def pictured_run(folder: Path, n_questions: int = 4, *overrides: str, **flags: object) -> RunDirectory:
    """Make data with images, and a run over it that finds all notes for each question; the rest are its settings."""
    data = folder / "pictured"
    data.mkdir(parents=True)
    for name, content in _files().items():
        (data / name).write_bytes(content)
    (folder / "secret.png").write_bytes(_files()["card.png"])
    (data / "link.png").symlink_to(folder / "secret.png")
    write_jsonl(
        data / "notes.jsonl",
        [
            {"note_idx": at, "title": f"题{at}", "content": f"咖啡{at}杯。", "image_path": names}
            for at, names in enumerate(NAMES)
        ],
    )
    write_jsonl(
        data / "dqa.jsonl",
        [
            {"search_idx": str(at), "query": "咖啡", "answers": ["一杯"], "ref_note_idx_list": [at % len(NAMES)]}
            for at in range(n_questions)
        ],
    )
    settings = {"data": str(data), "retriever": "bm25", "metrics": "rouge_l", "runs_dir": folder / "runs", **flags}
    return run(resolve_run(settings, overrides)).directory


def _files() -> dict[str, bytes]:
    from PIL import PngImagePlugin

    told = PngImagePlugin.PngInfo()
    told.add_text("comment", CANARY)
    card = _encoded("PNG", 640, 400, pnginfo=told)
    script = f'<svg xmlns="http://www.w3.org/2000/svg" onload="window.hacked=1"><text>{CANARY}</text></svg>'
    return {
        "card.png": card,
        "photo.jpeg": _encoded("JPEG", 500, 900, comment=CANARY),
        ODD_NAME: _encoded("PNG", 30, 20),
        "script.png": script.encode(),
        "cut.png": card[: len(card) // 2],
        "page.webp": f"<script>window.hacked=1</script>{CANARY}".encode(),
        "bomb.png": _bomb(),
        "noise.png": _encoded("PNG", 700, 700, noise=256),
    }


def _encoded(form: str, width: int, height: int, noise: int = 8, **settings: Any) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, noise, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream := BytesIO(), form, **settings)
    return stream.getvalue()


def _bomb() -> bytes:
    """A PNG of 100,000 x 100,000 pixels by its header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
