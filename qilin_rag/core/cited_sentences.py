"""Split an answer into sentences, each with the numbers that its citation markers name."""

from __future__ import annotations

import re

from qilin_rag.core.text import CITED, mark_citations, sentences, strip_markup

_BELONGS_BEFORE = re.compile(rf"(?:[\W_]*{CITED})?[\s”’」』）】》〉]*")


def cited_sentences(answer: str) -> list[tuple[str, list[int]]]:
    """Split an answer into sentences without markup, each with the numbers it cites, in order and with repeats.

    A marker after the end mark belongs to the sentence before it, and so does a marker alone on its line. Closing
    quotation marks and brackets, and text without letters or digits, stay with the sentence before them on their line.

    >>> cited_sentences("先晾干[1]。再浇水。[2]")
    [('先晾干。', [1]), ('再浇水。', [2])]
    """
    found: list[tuple[str, list[int]]] = []
    marked, numbers = mark_citations(answer)
    left = iter(numbers)
    waiting: list[int] = []  # numbers before the first sentence
    for line in marked.splitlines():
        for piece in _pieces(line):
            text = strip_markup(piece.replace(CITED, "")).strip()
            cited = [number for _ in range(piece.count(CITED)) for number in next(left)]
            if text:
                found.append((text, waiting + cited))
                waiting = []
            else:
                (found[-1][1] if found else waiting).extend(cited)
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
    for piece in sentences(line):
        end = 0
        if pieces and (before := _BELONGS_BEFORE.match(piece)):
            end = before.end() if has_letters(piece) else len(piece)
            pieces[-1] += piece[:end]
        if end < len(piece):
            pieces.append(piece[end:])
    return pieces
