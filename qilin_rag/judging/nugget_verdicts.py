"""Read an LLM's replies about nuggets: the facts that it found in sources, and which of them an answer holds.

A reply is read whole or not at all: each of its lines has the asked form, and nothing else is there. Full-width forms,
invisible characters, emphasis, the mark of a list, brackets around a word and a full stop make no difference. A fence
of code around the whole reply makes none either, unless the judge was shown a line of the asked form.

A reply whose lines are all among the texts that the judge was shown is a quotation, with or without marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from qilin_rag.core.text import has_words, normalise, visible
from qilin_rag.judging.verdicts import BRACKETS, EMPHASIS, THINKING, WHOLE_FENCE

Importance = Literal["vital", "okay"]
Support = Literal["support", "partial_support", "not_support"]
_IMPORTANCES: dict[str, Importance] = {"核心": "vital", "次要": "okay", "vital": "vital", "okay": "okay"}
_SUPPORTS: dict[str, Support] = {
    "支持": "support",
    "部分支持": "partial_support",
    "不支持": "not_support",
    **{word: word for word in get_args(Support)},
}
_ASSIGNED = re.compile(r"(?:[-*•]\s+)?(?:要点|nugget|fact)?\s*([1-9]\d{0,2})\s*[:.、)]\s*(\S.*?)\s*[。.]?", re.ASCII)
_FACT = re.compile(
    r"(?:[-*•]\s+|[0-9]{1,3}[.、)]\s*)?(核心|次要|vital|okay)\s*[\[【［]\s*([0-9]{1,3}(?:\s*[,，、]\s*[0-9]{1,3})*)\s*[\]】］]\s*[:：]?\s*(\S.*)",
    re.IGNORECASE,
)
_NO_FACTS = re.compile(r"(?:无|没有|none)[。.]?")
MOST_CHARS = 200  # of a fact: a longer one is not atomic


class Fact(NamedTuple):
    """A fact that an LLM found, and the numbers of the sources that it is from."""

    text: str
    importance: Importance
    sources: list[int]


def read_support(reply: str, n_nuggets: int, shown: Iterable[str] | None = None) -> list[Support] | None:
    """Return how far an answer supports each nugget, in the order of their numbers; None if that can't be read.

    Args:
        reply: what the judge wrote.
        n_nuggets: the number of nuggets that the judge was asked about.
        shown: all texts under test that the judge was shown; None if they are not known.

    >>> read_support("1：支持\\n2：不支持", 2)
    ['support', 'not_support']
    >>> read_support("1：支持", 2) is None
    True
    """
    lines = _own_lines(normalise(reply), shown)
    found = [_ASSIGNED.fullmatch(line) for line in lines]
    by_number = {int(each[1]): _SUPPORTS.get(_unwrapped(each[2])) for each in found if each}
    supports = [by_number.get(number) for number in range(1, n_nuggets + 1)]
    is_whole = all(found) and len(lines) == len(by_number) == n_nuggets
    known = [support for support in supports if support is not None]
    return known if is_whole and len(known) == n_nuggets else None


def read_facts(reply: str, n_sources: int, shown: Iterable[str] | None = None) -> list[Fact] | None:
    """Return the facts that an LLM found in sources, none if it says so; None if the reply can't be read.

    Args:
        reply: what the LLM wrote.
        n_sources: the number of sources that it was shown.
        shown: all texts that it was shown; None if they are not known.

    >>> read_facts("核心 [1,2] 水温92度\\n次要 [2] 闷蒸30秒", 2)[1]
    Fact(text='闷蒸30秒', importance='okay', sources=[2])
    """
    lines = _own_lines(visible(reply), shown)
    if len(lines) == 1 and _NO_FACTS.fullmatch(normalise(lines[0])):
        return []
    facts = [_fact(found, n_sources) for found in map(_FACT.fullmatch, lines)]
    known = [fact for fact in facts if fact is not None]
    return known if known and len(known) == len(facts) else None


def _fact(found: re.Match[str] | None, n_sources: int) -> Fact | None:
    if not found:
        return None
    sources = sorted({int(number) for number in re.findall("[0-9]+", found[2])})
    text = found[3].strip()
    if not 1 <= sources[0] <= sources[-1] <= n_sources or not has_words(text) or len(text) > MOST_CHARS:
        return None
    return Fact(text, _IMPORTANCES[found[1].lower()], sources)


def _own_lines(reply: str, shown: Iterable[str] | None) -> list[str]:
    """Return the lines of a reply that are not empty, without emphasis; none if they may be a quotation."""
    if THINKING.search(reply):
        return []
    seen = {line for text in shown or () for line in _lines(normalise(text))}
    if fenced := WHOLE_FENCE.fullmatch(reply):
        if any(_ASSIGNED.fullmatch(line) or _FACT.fullmatch(line) for line in seen):
            return []
        reply = fenced[2]
    lines = _lines(reply)
    return [] if lines and all(normalise(line) in seen for line in lines) else lines


def _lines(text: str) -> list[str]:
    return list(filter(None, (EMPHASIS.sub("", line).strip() for line in text.splitlines())))


def _unwrapped(word: str) -> str:
    inside = BRACKETS.fullmatch(word)
    return next(filter(None, inside.groups()), "").strip() if inside else word
