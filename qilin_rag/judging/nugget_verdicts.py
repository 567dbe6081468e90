"""Read an LLM's replies about nuggets: the facts that it found in sources, and which of them an answer holds.

A reply is read whole or not at all (see `reply_lines`): each of its lines has the asked form, and nothing else is
there. Full-width forms, the mark of a list, brackets around a word and a full stop make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, get_args

from qilin_rag.core.judged_answers import Importance, Support
from qilin_rag.core.text import has_words, normalise, visible
from qilin_rag.judging.reply_lines import own_lines, unwrapped

_IMPORTANCES: dict[str, Importance] = {"核心": "vital", "次要": "okay", "vital": "vital", "okay": "okay"}
_SUPPORTS: dict[str, Support] = {
    "支持": "support",
    "部分支持": "partial_support",
    "不支持": "not_support",
    **{word: word for word in get_args(Support)},
}
_NUMBER = r"(?:[-*•]\s+)?(?:要点|句子|陈述|nugget|fact|sentence|claim)?\s*([1-9]\d{0,2})\s*[:.、)]\s*"
_ASSIGNED = re.compile(rf"{_NUMBER}(\S.*?)\s*[。.]?", re.ASCII)
_GAINED = re.compile(  # by the answer; a copied line that says the opposite can only lower its score
    rf"{_NUMBER}[<\[【`]?\s*(部分|partial_)?(?:支持|support)\s*[>\]】`]?\s*[。.]?", re.ASCII
)
_NUMBERS = r"[0-9]{1,3}(?:\s*[,，、]\s*[0-9]{1,3})*"
_NO_FACTS = re.compile(r"(?:无|没有|none)[。.]?")
_FACT, _STATED = (  # the second without importance, sources and full stop, which a copy may change
    re.compile(
        rf"(?:[-*•]\s+|[0-9]{{1,3}}[.、)]\s*)?({of}核心|次要|vital|okay)\s*"
        rf"(?:[\[【［]\s*({of}{_NUMBERS})\s*[\]】］]\s*[:：]?|[:：])\s*{text}",
        re.IGNORECASE,
    )
    for of, text in (("", r"(\S.*)"), ("?:", r"(\S.*?)\s*[。.]?"))
)
_SAID = re.compile(f"{_STATED.pattern}|{_NO_FACTS.pattern}", re.IGNORECASE)
_IMPORTANCE = "(?:核心|次要|vital|okay)"
_NONE_OF_A_KIND = re.compile(rf"{_IMPORTANCE}\s*[:：]\s*{_NO_FACTS.pattern}", re.IGNORECASE)
_NOT_A_FACT = re.compile(
    rf"^(?:>|[\[【［]\s*[0-9]|\W*$)|{_IMPORTANCE}\s*(?:[\[【［]\s*[0-9]|[:：])|^{_NO_FACTS.pattern}$", re.IGNORECASE
)
MOST_CHARS = 200  # of a fact: a longer one is not atomic


class Fact(NamedTuple):
    """A fact that an LLM found, and the numbers of the sources that it is from."""

    text: str
    importance: Importance
    sources: list[int]


def read_support(
    reply: str, n_asked: int, shown: Iterable[str] | None = None, partial: bool = True
) -> list[Support] | None:
    """Return how far a text supports each numbered statement, in the order of the numbers; None if it can't be read.

    Args:
        reply: what the judge wrote.
        n_asked: the number of statements that the judge was asked about.
        shown: all texts under test that the judge was shown; None if they are not known.
        partial: whether the judge may say that a statement is supported in part.

    >>> read_support("1：支持\\n2：不支持", 2)
    ['support', 'not_support']
    >>> read_support("1：支持", 2) is None
    True
    """
    lines = own_lines(normalise(reply), shown, _GAINED)
    found = [_ASSIGNED.fullmatch(line) for line in lines]
    by_number = {int(each[1]): _SUPPORTS.get(unwrapped(each[2])) for each in found if each}
    supports = [by_number.get(number) for number in range(1, n_asked + 1)]
    is_whole = all(found) and len(lines) == len(by_number) == n_asked
    known = [each for each in supports if each is not None and (partial or each != "partial_support")]
    return known if is_whole and len(known) == n_asked else None


def read_facts(reply: str, n_sources: int, shown: Iterable[str] | None = None) -> list[Fact] | None:
    """Return the facts that an LLM found in sources, none if it says so; None if the reply can't be read.

    The numbers of the sources may be left out if there is one only.

    Args:
        reply: what the LLM wrote.
        n_sources: the number of sources that it was shown.
        shown: all texts that it was shown; None if they are not known.

    >>> read_facts("核心 [1,2] 水温92度\\n次要 [2] 闷蒸30秒", 2)[1]
    Fact(text='闷蒸30秒', importance='okay', sources=[2])
    """
    lines = own_lines(visible(reply), shown, _SAID)
    if len(lines) == 1 and _NO_FACTS.fullmatch(normalise(lines[0])):
        return []
    lines = [line for line in lines if not _NONE_OF_A_KIND.fullmatch(line)]
    facts = [_fact(found, n_sources) for found in map(_FACT.fullmatch, lines)]
    known = [fact for fact in facts if fact is not None]
    return known if known and len(known) == len(facts) else None


def _fact(found: re.Match[str] | None, n_sources: int) -> Fact | None:
    if not found:
        return None
    if found[2] is None and n_sources > 1:
        return None
    sources = sorted({int(number) for number in re.findall("[0-9]+", found[2] or "1")})
    text = found[3].strip()
    is_fact = has_words(text) and len(text) <= MOST_CHARS and not _NOT_A_FACT.search(text)
    if not is_fact or not 1 <= sources[0] <= sources[-1] <= n_sources:
        return None
    return Fact(text, _IMPORTANCES[found[1].lower()], sources)
