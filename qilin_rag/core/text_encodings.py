"""Text files that are not UTF-8: their probable encoding, and how to convert them."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

_SAMPLE_BYTES = 1 << 16
_MARKS = {  # a UTF-32 mark begins with a UTF-16 mark, so it comes first
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


# The lead bytes of each encoding's frequent characters, which make up most of any text.
_FREQUENT = {"GB18030": ("gb2312", 0xB0, 0xD7), "Big5": ("big5", 0xA4, 0xC6)}


_FEWEST_FREQUENT = 0.7


def likely_encoding(content: bytes) -> str | None:
    """Return the name of the probable encoding of bytes that are not UTF-8; None if none is likely.

    Byte order marks and NUL bytes identify UTF-16 and UTF-32. The share of frequent characters identifies GB18030 (GBK)
    and Big5.
    """
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    if n_nul := content.count(0):
        if n_nul < len(content) // 50:
            return None
        return "UTF-16LE" if content[1::2].count(0) * 2 > n_nul else "UTF-16BE"
    shares = {name: _share_frequent(content, name) for name in _FREQUENT}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _FEWEST_FREQUENT else None


def _share_frequent(content: bytes, name: str) -> float:
    """Return the share of frequent characters when the bytes are read in this encoding; 0 if they can't be."""
    narrow, first, last = _FREQUENT[name]
    decoder = codecs.getincrementaldecoder(name)()  # a character cut off at the end is not an error
    try:
        text = decoder.decode(content)
    except UnicodeDecodeError:
        return 0.0
    characters = re.findall(r"[^\x00-\x7f\u3000-\u303f\uff00-\uffef\u2010-\u2027]", text)
    frequent = sum(first <= character.encode(narrow, "replace")[0] <= last for character in characters)
    return frequent / len(characters) if characters else 0.0


def hint(path: Path) -> str:
    """Return the probable encoding of a file and how to convert it, to follow the words `not UTF-8 text`."""
    try:
        with path.open("rb") as file:
            name = likely_encoding(file.read(_SAMPLE_BYTES))
    except OSError:
        name = None
    if name is None:
        return "; save it as UTF-8"
    also = " (GBK)" if name == "GB18030" else ""
    return f"; it seems to be {name}{also}: convert it with `iconv -f {name} -t UTF-8`, or save it as UTF-8"


def is_wide(path: Path) -> bool:
    """Return whether a file is UTF-16 or UTF-32, whose line breaks can't be found by single bytes."""
    with path.open("rb") as file:
        return (likely_encoding(file.read(_SAMPLE_BYTES)) or "").startswith(("UTF-16", "UTF-32"))
