"""Normalise text of common characters by one look-up for each: Chinese, printable ASCII, and most emoji."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

# No character of these changes what becomes of its neighbour, nor is changed by it: none combines, joins or is a tag.
_TEXT_RANGES = ("\n\n", " ~", "··", "—‟", "、】", "㐀䶿", "一鿿", "！～")
_PICTURE_RANGES = ("☀➿", "\U0001f300\U0001f3f3", "\U0001f3f5\U0001faff")  # between: the flag that tags follow
_OTHER = 0x110000  # no code point


@cache
def _table(normalise: Callable[[str], str]) -> npt.NDArray[np.uint32]:
    """Return what becomes of each code point, shape (0x110000,); `_OTHER` unless it is one code point in any text."""
    table = np.full(0x110000, _OTHER, np.uint32)
    for ends in (*_TEXT_RANGES, *_PICTURE_RANGES):
        for char in map(chr, range(ord(ends[0]), ord(ends[1]) + 1)):
            if len(normalised := normalise(char)) == 1:
                table[ord(char)] = ord(normalised)
    return table


def normalise_common(text: str, normalise: Callable[[str], str]) -> str | None:
    """Return the text as `normalise` does, if it holds only common characters; else None.

    Args:
        text: The text.
        normalise: Normalises any text; called only with single characters.
    """
    found = _table(normalise)[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")]
    return found.tobytes().decode("utf-32-le") if found.max(initial=0) < _OTHER else None
