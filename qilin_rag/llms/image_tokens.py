"""Count the tokens of an image by the published rules of the models that read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from math import ceil, sqrt
from typing import Literal, get_args

from qilin_rag.core.types import Image

Rule = Literal["qwen2-vl", "qwen3-vl", "openai-tiles", "anthropic", "gemini"]
Count = Callable[[int, int], int]

_OF_MODEL: dict[Rule, re.Pattern[str]] = {
    "qwen2-vl": re.compile(r"qwen2(\.5)?-vl|qwen2\.5vl"),
    "qwen3-vl": re.compile(r"qwen3-?vl"),
    "openai-tiles": re.compile(r"gpt-4o(-\d{4}-\d{2}-\d{2})?$|gpt-4-turbo"),
    "anthropic": re.compile(r"claude-"),
    "gemini": re.compile(r"gemini-[12]\."),
}
"""Models by name. Gemini 3 and GPT-4o mini count in other ways than the models before and beside them."""


def rule_of(model: str) -> Rule | None:
    """Return the rule by which a model of this name counts images; None if it is not known.

    >>> rule_of("Qwen/Qwen2.5-VL-7B-Instruct"), rule_of("gpt-4o"), rule_of("my-model")
    ('qwen2-vl', 'openai-tiles', None)
    """
    return next((rule for rule, named in _OF_MODEL.items() if named.search(model.lower())), None)


def count_tokens(rule: Rule | None, width: int, height: int) -> int:
    """Return the tokens of an image of this size; without a rule, the most by any rule.

    >>> count_tokens("openai-tiles", 1024, 1024)
    765
    """
    counts = [_COUNTS[rule]] if rule else list(_COUNTS.values())
    return max(count(width, height) for count in counts)


@cache
def most_tokens(rule: Rule | None, longest_side: int) -> int:
    """Return the most tokens that an image can have whose sides are at most this long."""
    return max(count_tokens(rule, longest_side, side) for side in range(1, longest_side + 1))


def tokens_of(rule: Rule | None, image: Image) -> int:
    """Return the tokens of an image as it is sent; only its header is read."""
    from PIL import Image as Pillow

    with Pillow.open(BytesIO(image.jpeg), formats=("JPEG",)) as picture:
        return count_tokens(rule, *picture.size)


def _qwen(width: int, height: int, side: int, least_pixels: int, most_pixels: int) -> int:
    """Count as Qwen's `smart_resize`: a token for each square of `side` pixels, and one before and after them."""
    columns, rows = round(width / side), round(height / side)
    if columns * rows * side**2 > most_pixels:
        shrink = sqrt(width * height / most_pixels)
        columns, rows = (max(1, int(length / shrink / side)) for length in (width, height))
    elif columns * rows * side**2 < least_pixels:
        grow = sqrt(least_pixels / (width * height))
        columns, rows = (ceil(length * grow / side) for length in (width, height))
    return columns * rows + 2


def _openai_tiles(width: int, height: int) -> int:
    """Count GPT-4o's tiles of 512 pixels, after it shrank the image into 2048 x 2048 and its shorter side to 768."""
    shrink = min(1.0, 2048 / max(width, height))
    shrink = min(shrink, 768 / min(width, height))
    columns, rows = (ceil(round(length * shrink, 6) / 512) for length in (width, height))
    return 85 + 170 * columns * rows


def _anthropic(width: int, height: int) -> int:
    """Count Claude's patches of 28 pixels; models shrink large images, so that this is the most."""
    return ceil(width / 28) * ceil(height / 28)


def _gemini(width: int, height: int) -> int:
    """Count Gemini's tiles, whose side is two thirds of the image's shorter side (at least 256, at most 768)."""
    if max(width, height) <= 384:
        return 258
    side = min(768, max(256, int(min(width, height) / 1.5)))
    return 258 * ceil(width / side) * ceil(height / side)


_COUNTS: dict[Rule, Count] = {
    # transformers, image_processing_qwen2_vl.smart_resize; pixels as the models' preprocessor_config.json sets them.
    "qwen2-vl": partial(_qwen, side=28, least_pixels=4 * 28**2, most_pixels=16384 * 28**2),
    "qwen3-vl": partial(_qwen, side=32, least_pixels=64 * 32**2, most_pixels=16384 * 32**2),
    "openai-tiles": _openai_tiles,  # platform.openai.com/docs/guides/vision/calculating-costs, detail: high
    "anthropic": _anthropic,  # platform.claude.com/docs/en/build-with-claude/vision
    "gemini": _gemini,  # ai.google.dev/gemini-api/docs/image-understanding, token calculation
}
RULES: tuple[Rule, ...] = get_args(Rule)
