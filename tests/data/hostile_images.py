"""Two hundred image files that are damaged, huge or hostile, each with the reasons under which it may be left out."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
READ, DAMAGED, MISSING, OUTSIDE = "read", "damaged", "missing", "outside"
TOO_LARGE, TOO_NARROW = "too large", "too narrow"


class Hostile(NamedTuple):
    """An image by its name in the table; what is right to say about it; and its bytes, unless it is no file."""

    name: str
    allowed: frozenset[str]
    content: bytes | None = None


def hostile_images(folder: Path, seed: int, n: int = 200) -> list[Hostile]:
    """Write `n` images below `folder`, the data of a stranger; some lead outside, to files beside it."""
    dice = random.Random(seed)
    below = folder / "image/part_0"
    below.mkdir(parents=True)
    (folder.parent / "secret.png").write_bytes(encoded(noise(dice, 30, 30), "PNG"))
    found: list[Hostile] = []
    for number in range(n):
        kind = KINDS[number % len(KINDS)]
        for allowed, made in kind(dice):
            name, content = f"image/part_0/{len(found)}.jpg", None
            if isinstance(made, bytes):
                (folder / name).write_bytes(made)
                content = made
            elif isinstance(made, str):
                name = made
            else:
                made(folder / name)
            found.append(Hostile(name, frozenset(allowed.split("|")), content))
    return found


def noise(dice: random.Random, width: int, height: int, mode: str = "RGB") -> Any:
    from PIL import Image

    n_bytes = width * height * len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (width, height), dice.randbytes(n_bytes))


def encoded(picture: Any, kind: str, **settings: Any) -> bytes:
    picture.save(file := io.BytesIO(), kind, **settings)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colours: int = 2) -> bytes:
    """A PNG that claims a size and holds these chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


Made = Iterator[tuple[str, bytes | str | Callable[[Path], Any]]]


def cut(dice: random.Random) -> Made:
    whole = encoded(noise(dice, 60, 40), dice.choice(FORMATS))
    yield DAMAGED, whole[: dice.randrange(1, len(whole) * 3 // 4)]


def changed(dice: random.Random) -> Made:
    """Bytes may be changed without harm."""
    content = bytearray(encoded(noise(dice, 60, 40), dice.choice(FORMATS)))
    for _ in range(dice.randrange(1, 30)):
        content[dice.randrange(len(content))] = dice.randrange(256)
    yield "|".join((READ, DAMAGED, TOO_LARGE, TOO_NARROW)), bytes(content)


def other_format(dice: random.Random) -> Made:
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as file:
        file.writestr("a.png", encoded(noise(dice, 9, 9), "PNG"))
    entity = b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    yield (
        DAMAGED,
        dice.choice(
            [
                b'<?xml version="1.0"?>' + entity + b'<svg xmlns="http://www.w3.org/2000/svg">&x;</svg>',
                b"<!DOCTYPE html><script>alert(1)</script>",
                archive.getvalue(),
                b"%PDF-1.7\n1 0 obj",
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(run) system",
                encoded(noise(dice, 9, 9), "BMP"),
                encoded(noise(dice, 9, 9), "TIFF"),
                b"",
                dice.randbytes(500),
                b"\xff\xd8\xff",
                b"GIF89a",
                b"RIFF\xff\xff\xff\xffWEBPVP8 ",
                b"\x89PNG\r\n\x1a\n" + encoded(noise(dice, 9, 9), "JPEG"),
            ]
        ),
    )


def claimed(dice: random.Random) -> Made:
    """A header claims a size that memory does not hold."""
    side = dice.randrange(7000, 60_000)
    small = encoded(noise(dice, 32, 32), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    canvas = struct.pack("<I", min(side, 16_384) - 1)[:3] * 2
    frame = encoded(noise(dice, 32, 32), "WEBP")[12:]
    extended = b"VP8X" + struct.pack("<IB3x", 10, 0) + canvas + frame
    yield (
        f"{TOO_LARGE}|{DAMAGED}",
        dice.choice(
            [
                png(side, side, chunk(b"IDAT", zlib.compress(b""))),
                b"GIF89a"
                + struct.pack("<HH", side, side)
                + b"\0\0\0,\0\0\0\0"
                + struct.pack("<HH", side, side)
                + b"\0",
                small[:at] + struct.pack(">HH", side + 2500, side + 2500) + small[at + 4 :],
                b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended,
            ]
        ),
    )


def bomb(dice: random.Random) -> Made:
    """Few bytes that grow: a picture of one colour, or a text inside."""
    side = dice.randrange(6000, 12_000)
    lines = chunk(b"IDAT", zlib.compress(bytes(side * (1 + -(-side // 8))), 9))
    yield TOO_LARGE, png(side, side, lines, depth=1, colours=0)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 * 2**20), 9))
    yield f"{DAMAGED}|{READ}", png(1, 1, text, chunk(b"IDAT", zlib.compress(b"\0abc")))


def large(dice: random.Random) -> Made:
    """As large as is allowed: the most memory that a picture may take."""
    from PIL import Image

    kind = dice.choice(["WEBP", "PNG", "GIF"])
    picture = Image.new("P" if kind == "GIF" else "RGBA", (5792, 5792), 7)
    yield READ, encoded(picture, kind, **({"method": 0, "quality": 1} if kind == "WEBP" else {}))


def narrow(dice: random.Random) -> Made:
    width, height = dice.sample([1, dice.randrange(101, 3000)], 2)
    yield TOO_NARROW, encoded(noise(dice, width, height), dice.choice(FORMATS))


def no_file(dice: random.Random) -> Made:
    def hole(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b"\xff\xd8\xff")
            file.truncate(2**26 + dice.randrange(1, 2**30))

    allowed, made = dice.choice(
        [
            (MISSING, os.mkfifo),
            (MISSING, os.mkdir),
            (OUTSIDE, lambda path: path.symlink_to("../../../secret.png")),
            (OUTSIDE, lambda path: path.symlink_to("/dev/zero")),
            (OUTSIDE, lambda path: path.symlink_to("/proc/self/environ")),
            (f"{OUTSIDE}|{MISSING}", lambda path: path.symlink_to(path)),
            (MISSING, lambda path: path.symlink_to("nowhere.png")),
            (TOO_LARGE, hole),
        ]
    )
    yield allowed, made


def odd_name(dice: random.Random) -> Made:
    yield dice.choice(
        [
            (OUTSIDE, "../secret.png"),
            (OUTSIDE, "image/../../secret.png"),
            (OUTSIDE, "/etc/hostname"),
            (OUTSIDE, "image/part_0/a\0.jpg"),
            (MISSING, "image/part_0/" + "x" * dice.randrange(300, 9000)),
            (MISSING, "https://example.org/a.jpg"),
            (MISSING, "file:///etc/hostname"),
            (MISSING, ""),
            (MISSING, "image"),
            (MISSING, "~/secret.png"),
            (MISSING, "..\\secret.png"),
            (MISSING, "image/part_0/\U0001f9e8.jpg"),
        ]
    )


def animated(dice: random.Random) -> Made:
    """Only the first frame is read."""
    frames = [noise(dice, 40, 30) for _ in range(4)]
    yield READ, encoded(frames[0], dice.choice(FORMATS[1:]), save_all=True, append_images=frames[1:])


def odd_metadata(dice: random.Random) -> Made:
    exif = b"Exif\0\0" + dice.choice([b"II*\0\xff\xff\xff\xff", b"MM\0*" + dice.randbytes(60), b"", dice.randbytes(9)])
    yield READ, encoded(noise(dice, 40, 30), dice.choice(["JPEG", "WEBP"]), exif=exif)


_OFTEN = (cut, changed, other_format, claimed, narrow, no_file, odd_name, animated, odd_metadata)
KINDS = (*_OFTEN * 9, bomb, large)
