"""Pictures from outside: every format upright in RGB, and whatever else the bytes are, a reason."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pillow = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[images]'")

from qilin_rag.data.pictures import FORMATS, MAX_PIXELS, ImageState, decode  # noqa: E402
from tests.data.hostile_images import encoded, hostile_images, png  # noqa: E402

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def any_shape(width: int, height: int) -> bool:
    return True


def colours(content: bytes, **settings: Any) -> Any:
    """The pixels of a picture that can be read."""
    picture, state = decode(content, any_shape, **settings)
    assert picture is not None and state is ImageState.READ and picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def corners(width: int = 64, height: int = 32, mode: str = "RGB") -> Any:
    """Red above left, green above right, blue below left, white below right."""
    picture = pillow.new("RGB", (width, height), WHITE)
    for colour, place in ((RED, (0, 0)), (GREEN, (width // 2, 0)), (BLUE, (0, height // 2))):
        picture.paste(colour, (*place, place[0] + width // 2, place[1] + height // 2))
    return picture.convert(mode)


def seen(pixels: Any) -> list[tuple[int, ...]]:
    """The colours of the four corners, each channel rounded to none or all."""
    height, width = pixels.shape[:2]
    places = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [tuple((np.round(pixels[place] / 255) * 255).astype(int).tolist()) for place in places]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation: int, kind: str) -> None:
    """Each is stored turned, as a phone does that was held this way."""
    from PIL import ImageOps

    exif = pillow.Exif()
    exif[0x0112] = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    upright = corners()
    upright.info["exif"] = exif.tobytes()
    stored = ImageOps.exif_transpose(upright) if orientation > 1 else corners()
    exif[0x0112] = orientation
    content = encoded(stored, kind, exif=exif.tobytes())
    for side in (None, 16):
        assert seen(colours(content, longest_side=side)) == [RED, GREEN, BLUE, WHITE], side


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "CMYK", "YCbCr")),
        *(("PNG", mode) for mode in ("RGB", "RGBA", "P")),
        *(("WEBP", "RGB"), ("WEBP", "RGBA"), ("GIF", "RGB"), ("GIF", "P")),
    ],
)
def test_colours_are_the_same_in_every_mode(kind: str, mode: str) -> None:
    content = encoded(corners(mode=mode), kind)
    for side in (None, 20):
        assert seen(colours(content, longest_side=side)) == [RED, GREEN, BLUE, WHITE], side


def test_transparent_parts_are_white() -> None:
    clear = corners(mode="RGBA")
    clear.paste((9, 9, 9, 0), (0, 0, 32, 16))
    for kind in ("PNG", "WEBP"):
        assert seen(colours(encoded(clear, kind)))[0] == WHITE, kind
    half = pillow.new("LA", (8, 8), (0, 128))
    assert abs(colours(encoded(half, "PNG")) - 127).max() <= 1
    palette = corners(mode="P")
    red = palette.getpixel((1, 1))
    for kind in ("PNG", "GIF"):
        assert seen(colours(encoded(palette, kind, transparency=red))) == [WHITE, GREEN, BLUE, WHITE], kind
    keyed = encoded(corners(), "PNG", transparency=RED)
    assert seen(colours(keyed)) == [WHITE, GREEN, BLUE, WHITE]


def test_16_bits_are_scaled() -> None:
    grey = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, 0)
    found = colours(encoded(pillow.fromarray(grey), "PNG"))
    assert abs(found - (grey / 257)[:, :, None]).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_is_read(kind: str) -> None:
    frames = [pillow.new("RGB", (20, 20), colour) for colour in (RED, GREEN, BLUE)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=10, loop=0)
    assert seen(colours(content)) == [RED] * 4


def test_sizes() -> None:
    content = encoded(corners(400, 200), "JPEG")
    shapes = {side: colours(content, longest_side=side).shape for side in (None, 1000, 100, 33, 1)}
    assert shapes == {
        None: (200, 400, 3),
        1000: (200, 400, 3),
        100: (50, 100, 3),
        33: (17, 33, 3),
        1: (1, 1, 3),
    }
    assert decode(content, lambda width, height: (width, height) != (400, 200)) == (None, ImageState.TOO_NARROW)


def test_the_most_pixels() -> None:
    side = int(MAX_PIXELS**0.5)
    for width, height, state in [(side, side, ImageState.DAMAGED), (MAX_PIXELS // 2 + 1, 2, ImageState.TOO_LARGE)]:
        assert decode(png(width, height), any_shape) == (None, state)


def test_no_warning_passes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(png(12_000, 12_000), any_shape)[1] is ImageState.TOO_LARGE
        decode(encoded(corners(mode="P"), "PNG", transparency=bytes(range(256))), any_shape)


def test_threads_read_at_once() -> None:
    contents = [encoded(corners(40 + i, 40), "PNG") for i in range(40)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = [picture for picture, _ in pool.map(lambda content: decode(content, any_shape), contents)]
    assert [picture.width for picture in found if picture] == [40 + i for i in range(40)]
    assert list(warnings.filters) == before


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_a_picture_or_a_reason(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(FORMATS))
    content = bytearray(encoded(corners(24, 16), kind))
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
        if not content:
            break
    picture, state = decode(bytes(content), any_shape, data.draw(st.sampled_from([None, 8])))
    assert state in (ImageState.READ, ImageState.DAMAGED, ImageState.TOO_LARGE)
    assert (picture is not None) == (state is ImageState.READ)
    if picture is not None:
        assert picture.mode == "RGB"
        picture.save(io.BytesIO(), "JPEG")


READ_ALL = """
import json, resource, sys
from pathlib import Path
from qilin_rag.data.catalogue import open_catalogue
from qilin_rag.data.note_images import NoteImages
from qilin_rag.data.source import open_source

catalogue = open_catalogue(open_source("data"))
n = len(catalogue.notes)
images = NoteImages(catalogue.notes)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
found = [images.of_notes([i], 1)[i] for i in range(n)]
status = Path("/proc/self/status").read_text()  # ru_maxrss is also of the process that began this one
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) >> 10
print(json.dumps({"peak": peak, "states": [["read"] if image else list(reasons) for image, reasons in found]}))
"""


DECODE_IN_THREADS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from qilin_rag.data.pictures import decode

content = Path("large.png").read_bytes()

def peak():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) >> 10

def size_of(_):
    return decode(content, lambda width, height: True, 100)[0].size

first, alone = size_of(0), peak()
with ThreadPoolExecutor(4) as pool:
    sizes = [first, *pool.map(size_of, range(6))]
print(json.dumps({"alone": alone, "together": peak(), "sizes": sizes}))
"""


@pytest.mark.slow
def test_threads_take_no_more_memory_for_large_pictures_than_one(tmp_path: Path) -> None:
    pillow.new("RGB", (5600, 5600), (200, 30, 30)).save(tmp_path / "large.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", DECODE_IN_THREADS], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    found = json.loads(done.stdout)
    assert found["sizes"] == [[100, 100]] * 7
    assert found["together"] < 1.3 * found["alone"], found


@pytest.mark.slow
def test_two_hundred_hostile_images(tmp_path: Path) -> None:
    """From folders and from an archive: none stops the reader, each has its reason, and memory stays bounded."""
    from tests.conftest import write_jsonl
    from tests.data.test_image_archives import member, tarred, write

    data = tmp_path / "data"
    images = hostile_images(data, seed=0)
    assert len(images) >= 200
    archived = [image for image in images if image.content is not None]
    members = [member(f"{i}.jpg", image.content or b"") for i, image in enumerate(archived)]
    write(data / "part_1.tar.gz", tarred(*members))
    allowed = [image.allowed for image in [*images, *archived]]
    names = [*(image.name for image in images), *(f"image/part_1/{i}.jpg" for i in range(len(archived)))]
    rows = [{"note_idx": i, "title": "t", "content": "c", "image_path": [name]} for i, name in enumerate(names)]
    write_jsonl(data / "notes.jsonl", rows)
    done = subprocess.run([sys.executable, "-c", READ_ALL], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    wrong = [
        (name, state, sorted(right))
        for name, [state], right in zip(names, found["states"], allowed, strict=True)
        if state not in right
    ]
    assert not wrong
    counts = Counter(state for [state] in found["states"])
    assert set(counts) == {"read", "damaged", "too large", "too narrow", "missing", "outside"}, counts
    assert min(counts.values()) >= 5, counts
    assert found["peak"] < 1000, found["peak"]
