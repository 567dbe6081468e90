"""Text cards and scenes: pictures whose text is read easily, and pictures without any text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

FONT_FILE = "NotoSansCJKsc-Regular.otf"
WIDTH_PX = 480
SCENE_HEIGHT_PX = 320
_HEADLINE_PX, _LINE_PX = 40, 34
_MARGIN_PX, _GAP_PX = 32, 18
_INK = (20, 20, 20)
_PAPERS = ((255, 255, 255), (255, 248, 231), (236, 246, 255), (238, 250, 238), (255, 240, 243))
_PALETTE_COLOURS = 16


def check_drawing(what: str) -> None:
    """Raise UsageError if Pillow or the font is not installed; `what` is the thing that needs them."""
    require("images", "PIL", what=what)
    font_path(what)


@cache
def font_path(what: str = "drawing text cards") -> Path:
    """Return the file of the Noto Sans CJK font that the package mplfonts carries."""
    require("analysis", "mplfonts", what=what)
    shipped = find_spec("mplfonts")
    for folder in (shipped and shipped.submodule_search_locations) or []:
        if (path := Path(folder) / "fonts" / FONT_FILE).is_file():
            return path
    raise UsageError(
        f"{what} needs the font {FONT_FILE}, which this version of mplfonts lacks: pip install -U mplfonts"
    )


def draw_card(lines: Sequence[str], paper: int = 0) -> Image:
    """Return a picture of lines of black text, the first larger.

    Args:
        lines: The headline and the lines below it.
        paper: The number of the light colour behind them.
    """
    from PIL import Image, ImageDraw

    sizes = [_HEADLINE_PX, *[_LINE_PX] * (len(lines) - 1)]
    height = 2 * _MARGIN_PX + sum(sizes) + _GAP_PX * len(lines)
    card = Image.new("RGB", (WIDTH_PX, height), _PAPERS[paper % len(_PAPERS)])
    draw = ImageDraw.Draw(card)
    top = _MARGIN_PX
    for line, size in zip(lines, sizes, strict=True):
        draw.text((_MARGIN_PX, top), line, fill=_INK, font=_font(size))
        top += size + _GAP_PX
    return card


def draw_scene(seed: int) -> Image:
    """Return a picture without text: a sky, the sun and hills."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(seed)

    def colour(low: int, high: int) -> tuple[int, int, int]:
        red, green, blue = random.integers(low, high, 3).tolist()
        return red, green, blue

    scene = Image.new("RGB", (WIDTH_PX, SCENE_HEIGHT_PX), colour(180, 250))
    draw = ImageDraw.Draw(scene)
    left, top, size = random.integers((40, 20, 50), (360, 120, 90)).tolist()
    draw.ellipse((left, top, left + size, top + size), fill=colour(200, 256))
    for base in (190, 230, 275):
        middle, width = random.integers((0, 300), (WIDTH_PX, 700)).tolist()
        draw.ellipse((middle - width, base, middle + width, base + 400), fill=colour(60, 190))
    return scene


def encode(image: Image, form: str) -> bytes:
    """Return the bytes of a picture as `png` (16 colours), `webp` or `jpeg`."""
    stream = BytesIO()
    if form == "png":
        image.quantize(_PALETTE_COLOURS).save(stream, "PNG", optimize=True)
    elif form == "webp":
        image.save(stream, "WEBP", quality=60, method=6)
    else:
        image.save(stream, "JPEG", quality=60, optimize=True)
    return stream.getvalue()


@cache
def _font(size: int) -> FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(str(font_path()), size, layout_engine=ImageFont.Layout.BASIC)
