"""Covers of the notes that are shown: small pictures whose colour carries the cue."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qilin_rag.synth.corpus import cover_path
from qilin_rag.synth.dice import Bools, Dice, Ints
from qilin_rag.synth.shelf import Shelf

SIDE_PX = 32
_WARM, _COOL = (220, 110, 60), (60, 110, 220)
_SPREAD = 40


def write_covers(out: Path, dice: Dice, shelf: Shelf, notes: Ints, written: Bools) -> None:
    """Write the covers of those notes that have one; `written` records which exist."""
    new = np.unique(notes)
    new = new[~written[new]]
    written[new] = True
    new = new[shelf.n_images(new) > 0]
    for note, has_cue in zip(new.tolist(), shelf.has_cue(new).tolist(), strict=True):
        path = out / cover_path(note)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels(dice, note, has_cue)))


def pixels(dice: Dice, note: int, has_cue: bool) -> npt.NDArray[np.uint8]:
    """Return a blot of random brightness, in a warm colour if the cue is present, else in a cold one."""
    rows, columns = np.indices((SIDE_PX, SIDE_PX))
    noise = (dice.uniform("pixel", note, rows, columns)[:, :, None] - 0.5) * 2 * _SPREAD
    shade = (dice.uniform("shade", note) - 0.5) * _SPREAD
    image: npt.NDArray[np.uint8] = np.clip(np.array(_WARM if has_cue else _COOL) + noise + shade, 0, 255).astype("u1")
    return image


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return an RGB picture as PNG."""
    height, width, _ = image.shape
    lines = b"".join(b"\0" + line.tobytes() for line in image)  # 0 means no filter

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
