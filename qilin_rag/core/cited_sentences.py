"""Split an answer into sentences, each with the numbers that its citation markers name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qilin_rag.core.text import CITED, mark_citations, sentences, strip_markup

_BELONGS_BEFORE = re.compile(rf"(?:[\W_]*{CITED})?[\s”’」』）】》〉]*")
_FULL_STOP = re.compile(rf"\.[\"”’)\]{CITED}]*\s+(?=[\"“'(]?[A-Z\u4e00-\u9fff])")
_ABBREVIATION = re.compile(r"[A-Z]|(?:\w\.)+\w|(?i:approx|ca|cf|dr|eq|etc|fig|mr|mrs|ms|no|nos|pp?|prof|st|vs)")
_LABEL = re.compile(r"(?:\w+\s)?\w*\d")  # 1, Step 2


def cited_sentences(answer: str) -> list[tuple[str, list[int]]]:
    """Split an answer into sentences without markup, each with the numbers it cites, in order and with repeats.

    A marker after the end mark belongs to the sentence before it, and so does a marker on a line without letters and
    digits. Closing quotation marks and brackets stay with the sentence before them, and so does text without letters
    and digits on the same line.
    A full stop ends a sentence before a space and a capital or Chinese letter, except after an abbreviation or a label.

    >>> cited_sentences("先晾干[1]。再浇水。[2]")
    [('先晾干。', [1]), ('再浇水。', [2])]
    """
    found: list[tuple[str, list[int]]] = []
    marked, numbers = mark_citations(answer)
    left = iter(numbers)
    waiting: list[int] = []  # numbers before the first sentence
    own = waiting
    for line in marked.splitlines():
        for piece in _pieces(line):
            text = strip_markup(piece.replace(CITED, "")).strip()
            cited = [number for _ in range(piece.count(CITED)) for number in next(left)]
            if has_letters(text):
                own, waiting = waiting + cited, []
                found.append((text, own))
            else:
                own.extend(cited)
                found += [(text, [])] if text else []
    return found


def has_letters(text: str) -> bool:
    """Return whether a text has a letter, a digit or a Chinese character.

    >>> has_letters("92"), has_letters("---")
    (True, False)
    """
    return any(map(str.isalnum, text))


def _pieces(line: str) -> list[str]:
    """Split a line at the ends of sentences, with what belongs to a sentence but follows its end mark."""
    pieces: list[str] = []
    for piece in (part for sentence in sentences(line) for part in _at_full_stops(sentence)):
        end = 0
        if pieces and (before := _BELONGS_BEFORE.match(piece)):
            end = before.end() if has_letters(piece) else len(piece)
            pieces[-1] += piece[:end]
        if end < len(piece):
            pieces.append(piece[end:])
    return pieces


def _at_full_stops(text: str) -> Iterator[str]:
    start = 0
    for stop in _FULL_STOP.finditer(text):
        before = text[start : stop.start()].replace(CITED, "")
        word = before.rpartition(" ")[2].lstrip("(\"“'")
        if not _ABBREVIATION.fullmatch(word) and not _LABEL.fullmatch(before):
            yield text[start : stop.end()].rstrip()
            start = stop.end()
    yield text[start:]
