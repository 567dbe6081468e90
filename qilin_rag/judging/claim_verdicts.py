"""Read a reply that splits a text into claims: whole, or not at all (see `reply_lines`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qilin_rag.core.text import normalise, query_key, visible
from qilin_rag.judging.nugget_verdicts import MOST_CHARS
from qilin_rag.judging.reply_lines import own_lines

_MARK, _DIGITS, _COLON = r"(?:[-*•]\s+)?(?:陈述|claim)\s*", "[1-9１-９][0-9０-９]{0,2}", r"\s*[:：.．、)）]\s*"
_CLAIM = re.compile(rf"{_MARK}({_DIGITS}){_COLON}(.*\w.*)", re.IGNORECASE)
_NO_CLAIMS = re.compile(r"(?:无|没有|none)[。.]?")
_COPIED = re.compile(  # without number and full stop, which a copy may change
    rf"{_MARK}{_DIGITS}{_COLON}(.*\w.*?)[。.]?|{_NO_CLAIMS.pattern}", re.IGNORECASE
)


def read_claims(reply: str, shown: Iterable[str] | None = None) -> list[str] | None:
    """Return the claims of a text, none if it makes none; None if the reply can't be read.

    The claims are numbered from 1. One that repeats another is left out, and so is `无` (none).

    Args:
        reply: what the LLM wrote.
        shown: all texts that it was shown; None if they are not known.

    >>> read_claims("陈述1：水温92度。\\n陈述2：闷蒸30秒。")
    ['水温92度。', '闷蒸30秒。']
    >>> read_claims("陈述2：水温92度。") is None
    True
    """
    lines = own_lines(visible(reply), shown, _COPIED)
    if len(lines) == 1 and _NO_CLAIMS.fullmatch(normalise(lines[0])):
        return []
    found = [each for each in map(_CLAIM.fullmatch, lines) if each]
    numbers, claims = [int(each[1]) for each in found], [each[2].strip() for each in found]
    is_whole = len(found) == len(lines) > 0 and numbers == list(range(1, len(lines) + 1))
    if not is_whole or any(len(claim) > MOST_CHARS for claim in claims):
        return None
    return without_repeats(claim for claim in claims if not _NO_CLAIMS.fullmatch(normalise(claim)))


def without_repeats(claims: Iterable[str]) -> list[str]:
    """Return the claims without those that repeat the words of an earlier one.

    >>> without_repeats(["水温92度。", "闷蒸。", "水温 92度。"])
    ['水温92度。', '闷蒸。']
    """
    first: dict[str, str] = {}
    for claim in claims:
        first.setdefault(query_key(claim), claim)
    return list(first.values())
